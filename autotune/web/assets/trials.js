/** The trials of a job as they happen, newest first; only the rows of what has changed are made anew. */

import { getText, jobPath } from "./api.js";
import { arrange, element, fill, say } from "./dom.js";
import { keepRoles, number, table } from "./table.js";
import { firstOf, outcomeOf, peakOf, reasonOf, speedOf } from "./trial.js";
import { bytes, clock, counted, describe, figure, hasEnded, inCommon, interval, outcomes, spoken } from "./words.js";

const SHOWN = 50;
const HEADINGS = [{ text: "#", number: true }, "outcome", { text: "tokens/s", number: true }, { text: "peak", number: true }, { text: "configuration", rest: true }, { text: "took", number: true, rest: true }];

export class TrialsTable {
  /** @param {HTMLElement} place @param {string} name of the job */
  constructor(place, name) {
    this.name = name;
    this.showsAll = false;
    /** Number of a trial → its row, and what that was made of. */
    this.rows = new Map();
    /** Number of a trial → its log, which stays open where its row is made anew. */
    this.logs = new Map();
    this.nothing = element("p", { class: "hint" });
    this.table = table("Trials, newest first", HEADINGS, [], { stacks: true });
    this.common = element("p", { class: "hint" });
    this.more = element("button", { type: "button", onclick: () => { this.showsAll = true; this.draw(this.state); } });
    fill(place, this.nothing, this.table, this.common, this.more);
  }

  /** @param {any} state of the job's page */
  draw(state) {
    this.state = state;
    const { trials, running } = state;
    const isEmpty = !trials.length && !running.size;
    const newest = trials.toSorted((a, b) => b.number - a.number);
    const shown = this.showsAll ? newest : newest.slice(0, SHOWN);
    const { fields, common } = inCommon(trials.map((trial) => trial.config));
    say(this.nothing, isEmpty ? noneYet(state.job) : "");
    this.table.hidden = isEmpty;
    say(this.common, common && `All with ${common}.`);
    say(this.more, shown.length < newest.length ? `Show all ${newest.length}` : "");
    arrange(this.table.querySelector("tbody"), shown.map((trial) => this.row(trial, fields)));
    this.tick();
  }

  /** What the clock alone changes. */
  tick() {
    for (const place of this.table.querySelectorAll("[data-since]")) say(place, `, ${clock((Date.now() - place.dataset.since) / 1000)} so far`);
  }

  row(trial, fields) {
    const cells = cellsOf(trial, fields, this.state);
    const made = JSON.stringify(cells);
    const known = this.rows.get(trial.number);
    if (known?.made === made) return known.row;
    const row = rowOf(trial, cells, trial.outcome ? this.log(trial.number) : null);
    this.rows.set(trial.number, { made, row });
    return row;
  }

  log(trial) {
    if (!this.logs.has(trial)) this.logs.set(trial, logOf(this.name, trial));
    return this.logs.get(trial);
  }
}

function noneYet(job) {
  const words = { queued: "No trial yet: the job waits for a worker.", running: "No trial yet: the model, the devices and their workers are being prepared." };
  return words[job.status] ?? "No trial has begun.";
}

/** All that a row says, as data. */
function cellsOf(trial, fields, state) {
  const [speed, first, peak] = [speedOf(trial), firstOf(trial), peakOf(trial)];
  const probes = [...state.running.values()].filter((probe) => probe.trial === trial.number);
  const isBest = state.best?.number === trial.number;
  return {
    look: isBest ? "best" : probes.length ? "now" : null,
    badge: badge(trial, probes, state.job),
    speed: speed ? [figure(speed.median), interval(speed), first && `first probe ${figure(first.median)}`].filter(Boolean) : ["–"],
    peak: peak ? bytes(peak) : "–",
    config: describe(trial.config, fields),
    notes: notes(trial, isBest, state),
    probes: probes.map(({ repeat, since }) => ({ words: repeat ? `confirmation ${repeat} runs` : "runs", since })),
    reason: reasonOf(trial),
    took: trial.outcome && trial.seconds ? clock(trial.seconds) : "–",
  };
}

function rowOf(trial, { look, badge: [kind, words, title], speed: [median, ...more], peak, config, notes: said, probes, reason, took }, log) {
  const small = (text) => element("small", {}, text);
  const made = element(
    "tr",
    { class: look },
    element("th", { scope: "row", class: "number" }, trial.number),
    element("td", {}, element("span", { class: `badge ${kind}`, title }, words)),
    number([median, more.map(small)]),
    number(peak),
    element("td", { class: "words rest" }, config, said.map(small), probes.map(({ words: doing, since }) => small([doing, since && element("time", { "data-since": since })])), reason && small(reason), log),
    number(took, { class: "rest" }),
  );
  keepRoles(made);
  return made;
}

/** The class of a trial's badge, what it says, and what that means. */
function badge(trial, probes, job) {
  if (!trial.outcome && (probes.length || job.status === "running")) return ["running", "probing", null];
  if (!trial.outcome && hasEnded(job.status)) return ["", job.status === "cancelled" ? "cancelled" : "cut off", "its job ended first"];
  if (!trial.outcome) return ["", "waits", "its job stands still"];
  const outcome = outcomeOf(trial);
  return [outcome, spoken(outcome), outcomes[outcome]];
}

function notes(trial, isBest, { job, answer, standing, baseline }) {
  const ties = answer.recommendation?.ties ?? [];
  const tooLarge = speedOf(trial) && peakOf(trial) > job.usable_bytes;
  return [
    isBest && (job.status === "finished" ? "recommended" : "the best so far"),
    trial.number === (baseline?.number ?? standing?.baseline?.trial) && "the baseline",
    ties.some((tie) => tie.trial === trial.number) && "a tie with the best",
    tooLarge && `does not fit: above the usable ${bytes(job.usable_bytes)}`,
    trial.reused_from && `measured by the job ${trial.reused_from}`,
    trial.confirmations > 0 && `probed again ${counted(trial.confirmations, "time")}`,
  ].filter(Boolean);
}

/** What is kept of its probes, asked for each time that somebody opens it: there may be more of them. */
function logOf(name, trial) {
  const text = element("pre", { tabindex: "0", "aria-label": `Log of trial ${trial}` });
  const fold = element("details", { class: "log" }, element("summary", { "aria-label": `Log of trial ${trial}` }, "log"), text);
  fold.addEventListener("toggle", async () => {
    if (fold.open) text.textContent = await getText(`${jobPath(name)}/trials/${trial}/log`).catch((problem) => problem.message);
  });
  return fold;
}
