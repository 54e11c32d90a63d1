/** What speaks for and against a recommendation, as `autotune explain` tells it. */

import { element } from "./dom.js";
import { facts, number, table } from "./table.js";
import { againstBaseline, bytes, clock, counted, figure, headings, percent, sentence, signedPercent } from "./words.js";

const right = (text) => ({ text, number: true });

/** What each other value of each field would change. */
export function stepsView({ knobs }) {
  const steps = knobs.flatMap((knob) => knob.steps.map((step) => ({ knob, step })));
  const isIllegal = ({ step }) => step.why_not && step.speed_change === null && step.source === "forecast";
  const rows = steps.filter((one) => !isIllegal(one)).map(({ knob, step }) => stepRow(knob, step));
  const illegal = steps.filter(isIllegal);
  if (!steps.length) return [element("p", { class: "hint" }, "The space leaves nothing to change.")];
  return [
    rows.length > 0 && table("What one step either way from the best would change", ["change", right("tokens/s"), right("peak")], rows),
    element("p", { class: "hint" }, "Measured by a probe; with “about”, forecast and corrected by the probes of this job."),
    illegal.length > 0 && element("details", {}, element("summary", {}, `${counted(illegal.length, "step")} that cannot be taken`), element("ul", { class: "plain" }, illegal.map(({ knob, step }) => element("li", {}, `${stepWords(knob, step)}: ${step.why_not}`)))),
  ].filter(Boolean);
}

const stepWords = (knob, step) => `${headings[knob.field] ?? knob.field} ${knob.value} → ${step.value}`;

function stepRow(knob, step) {
  const mark = step.source === "forecast" ? "about " : "";
  const speed = step.speed_change === null ? "–" : `${mark}${signedPercent(step.speed_change)}`;
  const size = step.bytes_change === null ? "–" : `${mark}${step.bytes_change < 0 ? "−" : "+"}${bytes(Math.abs(step.bytes_change))}`;
  const isBetter = step.fits && step.speed_change > 0;
  return element(
    "tr",
    { class: step.why_not ? "off" : null },
    element("th", { scope: "row" }, stepWords(knob, step), step.why_not && element("small", {}, step.why_not)),
    number(speed, { class: isBetter ? "good" : "" }),
    number(size, { class: step.is_too_large ? "bad" : "" }),
  );
}

/** What came next, and why it is not what is recommended. */
export function rivalsView({ rivals }) {
  const rows = rivals.map((rival) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", class: "number" }, rival.trial),
      number(rival.tokens_per_second ? [figure(rival.tokens_per_second.median)] : "–"),
      number(rival.peak_bytes === null ? "–" : bytes(rival.peak_bytes)),
      element("td", { class: "words rest" }, rival.changes.map((change) => element("span", {}, change))),
      element("td", { class: "rest" }, rival.why_not),
    ),
  );
  return [table("Why others lost", [right("trial"), right("tokens/s"), right("peak"), { text: "differs by", rest: true }, { text: "why it is not recommended", rest: true }], rows, { stacks: true })];
}

/** What bounds it, what it gains over the baseline, what it cost to find out, what probes do not see. */
export function whyView(explanation) {
  const { bounds, notes } = explanation;
  const spent = Object.entries(bounds.seconds).filter(([, seconds]) => seconds > 0);
  const step = spent.reduce((sum, [, seconds]) => sum + seconds, 0);
  return [
    element("p", {}, element("b", {}, `Bound by ${bounds.bound}`), `: ${bounds.reason}`),
    table(
      "Where a step's time goes",
      ["of a step", right("seconds"), right("share")],
      spent.map(([name, seconds]) => element("tr", {}, element("th", { scope: "row" }, name.replaceAll("_", " ")), number(seconds.toPrecision(3)), number(percent(seconds / step)))),
    ),
    element("h3", {}, "Against the baseline"),
    ...gained(explanation),
    element("h3", {}, "What it cost"),
    facts(cost(explanation)),
    notes.length > 0 && element("h3", {}, "Mind"),
    element("ul", { class: "plain" }, notes.map((note) => element("li", {}, note))),
  ];
}

function gained({ speedup, no_speedup, baseline_steps }) {
  if (!baseline_steps.length) return [element("p", {}, "The baseline itself is what is recommended.")];
  const words = speedup ? `${sentence(againstBaseline(speedup))}, by` : `No speed-up can be quoted: ${no_speedup}. It differs by`;
  return [element("p", {}, words), element("ul", { class: "plain" }, baseline_steps.map((step) => element("li", {}, step)))];
}

function cost({ cost: spent, speedup, baseline_steps }) {
  const isUnsure = spent.pays_after_hours === null && speedup && baseline_steps.length;
  return [
    ["time", clock(spent.seconds)],
    ["GPUs", spent.gpu_hours ? `${spent.gpu_hours.toFixed(2)} GPU-hours of probes` : null],
    ["paid for after", spent.pays_after_hours === null ? null : `${clock(spent.pays_after_hours * 3600)} of training at the new speed`],
    ["whether it pays", isUnsure ? "cannot be told: the gain over the baseline is not beyond doubt" : null],
  ];
}
