/** How far a job has come: trials of its budget, confirmations, time spent and to go. */

import { element } from "./dom.js";
import { speedOf } from "./trial.js";
import { clock, contenders, counted, roughly, rounds } from "./words.js";

const COUNTING = new Set(["measured", "outpaced", "out_of_memory", "non_finite", "timed_out"]);
const MIN_TRIALS_TO_GUESS = 2;

/**
 * @param {any} state of the job's page
 * @returns {{done: number, most: number, confirmed: number, due: number, spent_s: number, left_s: number|null}}
 */
export function progressOf({ job, trials, running, standing, started, readAt, lostAt }) {
  const ended = trials.filter((trial) => trial.outcome);
  const done = ended.filter((trial) => COUNTING.has(trial.outcome)).length;
  const most = Math.max(done, Math.min(job.trials, started?.candidates || job.trials));
  const [confirmed, due] = confirmations(ended, running, standing);
  const isRunning = job.status === "running" && job.driver !== null;
  const since = isRunning ? ((lostAt ?? Date.now()) - readAt) / 1000 : 0;
  return { done, most, confirmed, due, spent_s: job.spent_s + since, left_s: isRunning ? left() : null };

  function left() {
    if (ended.length < MIN_TRIALS_TO_GUESS) return null;
    const searching = due ? 0 : (job.spent_s / ended.length) * (most - done);
    // A confirmation runs as long as a probe that nothing cuts short.
    const whole = ended.filter((trial) => trial.outcome === "measured");
    const like = whole.length ? whole : ended;
    const one = like.reduce((sum, trial) => sum + trial.seconds, 0) / like.length;
    const confirming = one * ((due || (contenders + 1) * rounds) - confirmed);
    return Math.max(0, Math.min(searching, standing?.seconds_left ?? Infinity) + confirming - since);
  }
}

/** Further probes of the leaders: how many have ended, how many there will be; none before they begin. */
function confirmations(ended, running, standing) {
  const again = new Set(ended.filter((trial) => trial.confirmations > 0).map((trial) => trial.number));
  for (const probe of running.values()) if (probe.repeat > 0) again.add(probe.trial);
  if (!again.size) return [0, 0];
  const fastest = ended.filter(speedOf).toSorted((a, b) => speedOf(b).median - speedOf(a).median);
  const due = new Set([...again, ...fastest.slice(0, contenders).map((trial) => trial.number)]);
  if (standing?.baseline) due.add(standing.baseline.trial);
  return [ended.reduce((sum, trial) => sum + Math.min(rounds, trial.confirmations), 0), due.size * rounds];
}

/** @returns {HTMLElement[]} */
export function progressView({ done, most, confirmed, due }, isRunning) {
  return [
    bar("Trials", done, most, isRunning ? `${done} of at most ${counted(most, "trial")}` : `${counted(done, "trial")} of at most ${most}`),
    due > 0 && isRunning ? bar("Confirmations", confirmed, due, `${confirmed} of ${due} further probes of the leaders`) : null,
  ];
}

/** Time spent and to go, in words. */
export function timeWords({ spent_s, left_s }, { job, answer }) {
  const hours = answer.spent.gpu_hours;
  return [
    `${clock(spent_s)} spent`,
    hours > 0 && `${hours.toFixed(2)} GPU-hours of probes`,
    left_s !== null && `${roughly(left_s)} to go`,
    job.minutes !== null && `at most ${counted(job.minutes, "minute")}`,
  ].filter(Boolean).join(" · ");
}

function bar(name, done, most, words) {
  return element("div", { class: "progress" }, element("progress", { max: most || 1, value: done, "aria-label": `${name}: ${words}` }), element("span", {}, words));
}
