/** The best so far, which in the end is what is recommended. */

import { element } from "./dom.js";
import { memoryBar } from "./memory_bar.js";
import { facts, number, table } from "./table.js";
import { againstBaseline, bytes, caveats, chips, count, describe, evidence, figure, inCommon, interval, isSure, percent, sentence } from "./words.js";

/** @returns {(HTMLElement|null)[]} */
export function bestView({ job, answer }) {
  const chosen = answer.recommendation;
  if (!chosen) return [element("p", {}, nothingYet(job)), memoryless(job)];
  const speed = chosen.tokens_per_second;
  const parts = partsOf(answer);
  return [
    element("p", { class: "headline" }, element("strong", {}, figure(speed.median)), ` tokens/s (${interval(speed)})`),
    element("p", { class: isSure(chosen.speedup) ? "gain" : "hint" }, comparison(chosen)),
    element("ul", { class: "chips", "aria-label": "Configuration" }, chips(chosen.config).map((word) => element("li", {}, word))),
    memoryBar(parts, { held: chosen.peak_bytes, ceiling: chosen.ceiling_bytes, usable: job.usable_bytes, split: parts.peak ? null : "split as forecast" }),
    facts([
      ["evidence", `${evidence[chosen.evidence]}, trial ${chosen.trial}`],
      ["global batch", `${count(chosen.global_batch_size)} sequences a step`],
      ["MFU", chosen.mfu === null ? null : percent(chosen.mfu, 1)],
      ["baseline", baseline(chosen)],
    ]),
    caveats(chosen.config).map((words) => element("p", { class: "notice" }, `Mind: ${words}`)),
    rows("A tie, closer than the probes can tell", chosen.ties),
    rows("The fastest at each length", answer.by_length),
  ];
}

/** The same in a line, for those who hear the page. */
export function bestWords({ job, answer: { recommendation: chosen } }) {
  if (!chosen) return nothingYet(job);
  return `${job.status === "finished" ? "Recommended" : "Best so far"}: trial ${chosen.trial}, ${figure(chosen.tokens_per_second.median)} tokens/s`;
}

function nothingYet(job) {
  if (job.status === "running" || job.status === "queued") return "Nothing measured yet.";
  return "Nothing to recommend.";
}

function memoryless(job) {
  return element("p", { class: "hint" }, `${bytes(job.usable_bytes)} of the ceiling of ${bytes(job.ceiling_bytes)} may be used.`);
}

/** @returns {string} how the recommendation compares with the baseline */
export function comparison({ config, speedup, baseline: own }) {
  if (describe(own.config) === describe(config)) return "No speed-up: the baseline is the fastest.";
  if (!speedup) return `Speed-up unknown: ${own.reason}`;
  return sentence(againstBaseline(speedup));
}

function baseline({ config, baseline: own }) {
  if (describe(own.config) === describe(config)) return null;
  const speed = own.tokens_per_second;
  return [speed && `${figure(speed.median)} tokens/s (${interval(speed)}): `, describe(own.config)].filter(Boolean).join("");
}

/** Parts of the recommended one's peak, where some row of the answer has them; else the whole as one. */
export function partsOf({ recommendation, front, alternatives, by_length }) {
  const row = [...front, ...alternatives, ...by_length].find((each) => each.trial === recommendation.trial);
  return recommendation.memory ?? row?.memory ?? { peak: recommendation.peak_bytes };
}

function rows(caption, those) {
  if (!those.length) return null;
  const { fields } = inCommon(those.map((row) => row.config));
  const made = those.map((row) => element("tr", {}, number(row.trial), number(figure(row.tokens_per_second.median)), number(bytes(row.peak_bytes)), element("td", { class: "rest" }, describe(row.config, fields))));
  return table(caption, [{ text: "trial", number: true }, { text: "tokens/s", number: true }, { text: "peak", number: true }, { text: "configuration", rest: true }], made, { shown: true, stacks: true });
}
