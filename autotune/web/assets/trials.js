/** The trials of a job as they happen, newest first. */

import { element } from "./dom.js";
import { number, table } from "./table.js";
import { firstOf, outcomeOf, peakOf, reasonOf, speedOf } from "./trial.js";
import { bytes, clock, counted, describe, figure, inCommon, interval, outcomes, spoken } from "./words.js";

const SHOWN = 50;

/**
 * @param {any} state of the job's page
 * @param {() => void} showAll
 */
export function trialsView(state, showAll) {
  const { job, trials, running } = state;
  if (!trials.length && !running.size) {
    const words = { queued: "No trial yet: the job waits for a worker.", running: "No trial yet: the model, the devices and their workers are being prepared." };
    return element("p", { class: "hint" }, words[job.status] ?? "No trial has begun.");
  }
  const { fields, common } = inCommon(trials.map((trial) => trial.config));
  const newest = trials.toSorted((a, b) => b.number - a.number);
  const shown = state.showsAll ? newest : newest.slice(0, SHOWN);
  const headings = [{ text: "#", number: true }, "outcome", { text: "tokens/s", number: true }, { text: "peak", number: true }, { text: "configuration", rest: true }, { text: "took", number: true, rest: true }];
  const rows = shown.map((trial) => row(trial, fields, state));
  return [
    table("Trials, newest first", headings, rows, { stacks: true }),
    common && element("p", { class: "hint" }, `All with ${common}.`),
    shown.length < newest.length && element("button", { type: "button", onclick: showAll }, `Show all ${newest.length}`),
  ];
}

function row(trial, fields, state) {
  const [speed, first, peak] = [speedOf(trial), firstOf(trial), peakOf(trial)];
  const probes = [...state.running.values()].filter((probe) => probe.trial === trial.number);
  const isBest = state.best?.number === trial.number;
  return element(
    "tr",
    { class: isBest ? "best" : probes.length ? "now" : null },
    element("th", { scope: "row", class: "number" }, trial.number),
    element("td", {}, badge(trial, probes, state.job)),
    number(speed ? [figure(speed.median), element("small", {}, interval(speed)), first && element("small", {}, `first probe ${figure(first.median)}`)] : "–"),
    number(peak ? bytes(peak) : "–"),
    element("td", { class: "words rest" }, describe(trial.config, fields), notes(trial, probes, isBest, state).map((words) => element("small", {}, words))),
    number(trial.outcome && trial.seconds ? clock(trial.seconds) : "–", { class: "rest" }),
  );
}

function badge(trial, probes, job) {
  if (!trial.outcome && (probes.length || job.status === "running")) return element("span", { class: "badge running" }, "probing");
  if (!trial.outcome) return element("span", { class: "badge" }, "not ended");
  const outcome = outcomeOf(trial);
  return element("span", { class: `badge ${outcome}`, title: outcomes[outcome] }, spoken(outcome));
}

function notes(trial, probes, isBest, { job, answer, standing, baseline }) {
  const ties = answer.recommendation?.ties ?? [];
  const tooLarge = speedOf(trial) && peakOf(trial) > job.usable_bytes;
  return [
    isBest && (job.status === "finished" ? "recommended" : "the best so far"),
    trial.number === (baseline?.number ?? standing?.baseline?.trial) && "the baseline",
    ties.some((tie) => tie.trial === trial.number) && "a tie with the best",
    tooLarge && `does not fit: above the usable ${bytes(job.usable_bytes)}`,
    trial.reused_from && `measured by the job ${trial.reused_from}`,
    trial.confirmations > 0 && `probed again ${counted(trial.confirmations, "time")}`,
    ...probes.map(probing),
    reasonOf(trial),
  ].filter(Boolean);
}

function probing({ repeat, since }) {
  const what = repeat ? `confirmation ${repeat} runs` : "runs";
  return since === null ? what : `${what}, ${clock((Date.now() - since) / 1000)} so far`;
}
