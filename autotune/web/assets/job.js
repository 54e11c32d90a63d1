/** The page of one job: what it has found, while it looks for more. */

import { get, jobPath, post } from "./api.js";
import { bestView, bestWords } from "./best.js";
import { drawChart } from "./chart.js";
import { byId, element, fill, say } from "./dom.js";
import { rivalsView, stepsView, whyView } from "./explanation.js";
import { exportsView } from "./exports.js";
import { leftOut } from "./forecast.js";
import { followLog } from "./log.js";
import { progressOf, progressView, timeWords } from "./progress.js";
import { TrialsTable } from "./trials.js";
import { bytes, canCancel, canResume, clock, count, counted, hasEnded, moment, percent, short, spoken, statusWords } from "./words.js";
import { watch } from "./watch.js";

const name = byId("content").dataset.job;
const path = jobPath(name);
const PAUSE_MS = 300;
/** Without word from the job, its state is read anew: its driver may have died. */
const SILENCE_MS = 10_000;

const state = {
  job: null,
  answer: null,
  /** By number, ascending. */
  trials: [],
  candidates: [],
  /** `trial.repeat` → the probe that runs. */
  running: new Map(),
  /** Numbers of trials of which a probe has ended since they were read. */
  probedAgain: new Set(),
  standing: null,
  started: null,
  readAt: 0,
  /** When the connection was lost, while it is. */
  lostAt: null,
  /** Jobs that a worker takes before this one, while it waits. */
  ahead: 0,
  /** The trial that is best so far, and the baseline's. */
  best: null,
  baseline: null,
};
const trialsTable = new TrialsTable(byId("trials"), name);
let timer = 0;
let isReading = false;
let isReadAgain = false;
/** What the slower parts were made of, so that they are asked for only when that has changed. */
let explained = "";

/** Read the state anew, soon: many events in a row are one reason. */
function soon(pause = PAUSE_MS) {
  clearTimeout(timer);
  timer = setTimeout(read, pause);
}

async function read() {
  if (isReading) {
    isReadAgain = true;
    return;
  }
  isReading = true;
  let isWhole = false;
  try {
    const [job, answer] = await Promise.all([get(path), get(`${path}/recommendation`)]);
    await readTrials();
    const ahead = job.status === "queued" ? await jobsBefore(job) : 0;
    Object.assign(state, { job, answer, ahead, readAt: Date.now(), lostAt: null });
    if (hasEnded(job.status) || job.status === "paused" || job.status === "queued") state.running.clear();
    say(byId("notice"), "");
    draw();
    // What is not there yet, or not for a moment, is asked for with the next reading.
    isWhole = await readSlowParts().then(() => true, () => false);
  } catch (problem) {
    say(byId("notice"), state.job ? "" : problem.message);
    if (problem.status === 0 && state.job) connectionLost();
  } finally {
    isReading = false;
  }
  if (isReadAgain) {
    isReadAgain = false;
    soon();
  } else if (state.job && !(isWhole && hasEnded(state.job.status))) soon(SILENCE_MS);
}

/** Only from the first that had not ended, or was probed again: of others there is nothing new. */
async function readTrials() {
  const known = new Map(state.trials.map((trial) => [trial.number, trial]));
  const open = state.trials.find((trial) => !trial.outcome)?.number ?? state.trials.length;
  const again = [...state.probedAgain];
  state.probedAgain.clear();
  let after = Math.min(open, ...again) - 1;
  try {
    while (after !== null) {
      const page = await get(`${path}/trials?after=${after}&limit=200`);
      for (const trial of page.trials) known.set(trial.number, trial);
      after = page.next;
    }
  } catch (problem) {
    for (const number of again) state.probedAgain.add(number);
    throw problem;
  }
  state.trials = [...known.values()].sort((a, b) => a.number - b.number);
}

/** Those that have waited longer are taken first. */
async function jobsBefore(job) {
  const { jobs } = await get("/v1/jobs?status=queued&limit=200");
  return jobs.filter((other) => other.updated_at < job.updated_at).length;
}

async function readSlowParts() {
  if (!state.candidates.length) {
    state.candidates = (await get(`${path}/candidates?limit=300`).catch(() => ({ candidates: [] }))).candidates;
    drawTheChart();
  }
  const chosen = state.answer.recommendation;
  const made = JSON.stringify([chosen?.config, chosen?.tokens_per_second, hasEnded(state.job.status), state.answer.spent.trials]);
  if (!chosen || made === explained) return;
  const [explanation, exports] = await Promise.all([get(`${path}/explanation`), get(`${path}/exports`)]);
  explained = made;
  show("steps-card", "steps", stepsView(explanation));
  show("why-card", "why", whyView(explanation));
  if (explanation.rivals.length) show("rivals-card", "rivals", rivalsView(explanation));
  if (exports.formats.length) showExports(exports.formats);
}

let exported = "";

function showExports(formats) {
  const chosen = state.answer.recommendation.config;
  const made = JSON.stringify([formats, chosen]);
  if (made === exported) return;
  exported = made;
  show("use-card", "use", exportsView(name, formats));
}

function show(card, place, children) {
  byId(card).hidden = false;
  fill(byId(place), children);
}

function happened(kind, data) {
  if (kind === "started") state.started = data;
  if (kind === "standing") state.standing = data;
  if (kind === "status" && data.status !== "running") state.running.clear();
  const probe = `${data.trial}.${data.repeat}`;
  if (kind === "probe_started") state.running.set(probe, { ...data, since: isLive() ? Date.now() : null });
  if (kind === "probe_ended") {
    state.running.delete(probe);
    state.probedAgain.add(data.trial);
  }
  soon();
}

/** Events that come with the first second are of the past, and when they happened is not known. */
const opened = Date.now();
const isLive = () => Date.now() - opened > 1500;

function draw() {
  const { answer, trials } = state;
  const chosen = answer.recommendation;
  const own = chosen?.baseline.config ?? state.standing?.baseline?.config;
  state.best = (chosen && trials.find((trial) => trial.number === chosen.trial)) ?? null;
  state.baseline = own ? (trials.findLast((trial) => JSON.stringify(trial.config) === JSON.stringify(own)) ?? null) : null;
  drawHeader();
  byId("cards").hidden = false;
  byId("best-title").textContent = state.job.status === "finished" && chosen ? "Recommendation" : "Best so far";
  keep("best", JSON.stringify([chosen, answer.by_length, state.job.status]), () => bestView(state));
  keep("best-status", bestWords(state), () => bestWords(state));
  trialsTable.draw(state);
  drawMoving();
  drawTheChart();
  byId("log-card").hidden = hasEnded(state.job.status);
  drawSpace();
}

/** What changes with the clock alone. */
function drawMoving() {
  const progress = progressOf(state);
  const isRunning = state.job.status === "running";
  keep("progress", JSON.stringify([{ ...progress, spent_s: 0, left_s: 0 }, isRunning]), () => progressView(progress, isRunning));
  say(byId("time"), timeWords(progress, state));
  trialsTable.tick();
}

function drawTheChart() {
  if (!window.Plotly) return;
  keep("chart", JSON.stringify([state.trials, state.candidates.length, state.best?.number, state.baseline?.number, state.job.status]), () => null, () => drawChart(byId("chart"), state));
}

const drawn = new Map();

/** Draw a part only where what it is made of has changed, so that nothing is read out or loses focus in vain. */
function keep(place, made, view, draws = () => fill(byId(place), view())) {
  if (drawn.get(place) === made) return;
  drawn.set(place, made);
  draws();
}

function drawHeader() {
  const { job, answer } = state;
  const done = answer.spent.trials;
  const { confirmed, due } = progressOf(state);
  const doing = due ? `probing the leaders again, ${confirmed} of ${due}` : `${done} of at most ${counted(job.trials, "trial")}`;
  const words = job.status === "running" ? doing : statusWords(job.status);
  const queue = state.ahead ? `, ${counted(state.ahead, "job")} before it` : "";
  const orphan = job.status === "running" && job.driver === null ? ", but nobody drives it at the moment" : "";
  keep("status", JSON.stringify([job.status, words, queue, orphan]), () => [element("span", { class: `badge ${job.status}` }, spoken(job.status)), ` ${words}${queue}${orphan}`]);
  const facts = [
    `${job.model}, ${short(job.parameters)} parameters`,
    `${job.gpus}${job.world_size > 1 ? `, ${job.world_size} ranks` : ""}`,
    `ceiling ${bytes(job.ceiling_bytes)}, ${percent(job.headroom)} kept free`,
    job.global_batch_size && `global batch ${count(job.global_batch_size)}`,
    `space ${typeof job.space === "string" ? job.space : job.space?.name}`,
    `sampler ${job.sampler}`,
    `budget ${counted(job.trials, "trial")}${job.minutes ? `, ${counted(job.minutes, "minute")}` : ""}${job.gpu_hours ? `, ${counted(job.gpu_hours, "GPU-hour")}` : ""}`,
    `submitted ${moment(job.created_at)}`,
  ];
  keep("facts", JSON.stringify(facts), () => facts.filter(Boolean).map((fact) => element("span", {}, fact)));
  say(byId("reason"), job.reason === job.status ? "" : job.reason);
  byId("reason").classList.toggle("bad", job.status === "failed");
  byId("reason").classList.toggle("quiet", job.status === "finished" || job.status === "cancelled");
  byId("study").hidden = !job.study;
  if (job.study) byId("study").href = job.study;
  byId("cancel").hidden = !canCancel(job.status);
  byId("resume").hidden = !canResume(job.status);
}

function drawSpace() {
  const { started, job, answer } = state;
  if (!started && !job.notes.length) return;
  const outcomes = Object.entries(answer.counts).filter(([, times]) => times).map(([outcome, times]) => `${times} ${spoken(outcome)}`);
  keep("space", JSON.stringify([started, job.notes, outcomes]), () => [
    started?.candidates > 0 && element("p", {}, `${counted(started.candidates, "candidate")} of the space ${job.space}; ${outcomes.join(", ") || "none has been tried"}.`),
    started?.rejected.length > 0 && leftOut(started.rejected),
    job.notes.map((note) => element("p", { class: "hint" }, `Note: ${note}`)),
  ]);
  byId("space-card").hidden = false;
}

function ask({ title, words, yes, isGrave = false }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-words").textContent = words;
  byId("confirm-yes").textContent = yes;
  byId("confirm-yes").className = isGrave ? "bad" : "primary";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function act(what, question) {
  if (!(await ask(question))) return;
  try {
    state.job = await post(`${path}/${what}`);
    if (what === "resume") follow();
    read();
  } catch (problem) {
    say(byId("notice"), problem.message);
  }
}

function connectionLost() {
  state.lostAt ??= Date.now();
  say(byId("connection"), "Connection lost, trying again. What was measured is safe.");
}

function follow() {
  watch(name, {
    onEvent: happened,
    onLost: connectionLost,
    onFound: () => { say(byId("connection"), ""); read(); },
    isOver: async () => {
      try {
        return hasEnded((await get(path)).status);
      } catch (problem) {
        return problem.status === 404;
      }
    },
  });
}

byId("cancel").addEventListener("click", () => act("cancel", { title: `Cancel ${name}?`, words: "The probe that runs is ended and the job cannot be resumed. What was measured stays, and other jobs can use it.", yes: "Yes, cancel it", isGrave: true }));
byId("resume").addEventListener("click", () => act("resume", { title: `Resume ${name}?`, words: `It waits for a worker, which goes on where it stood after ${clock(state.job.spent_s)}.`, yes: "Yes, resume it" }));
followLog(byId("log"), name, () => state.job?.status === "running");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawn.delete("chart"); if (state.job) drawTheChart(); });
setInterval(() => { if (state.job?.status === "running" && !document.hidden) drawMoving(); }, 1000);
read();
follow();
