/** A plan, as `autotune plan` tells it: what fits, why the rest does not, what would help. */

import { element } from "./dom.js";
import { memoryBar } from "./memory_bar.js";
import { number, table } from "./table.js";
import { bytes, caveats, chips, count, counted, describe, figure, inCommon, percent } from "./words.js";

const heldBy = (row) => row.reserved_bytes + row.memory.fixed;

/** One sentence that says how much of the space fits. */
export function planSentence(plan) {
  const of = `${count(plan.fitting)} of ${count(plan.candidates)} legal configurations of the space ${plan.space} fit`;
  return plan.fitting ? `${of} on ${plan.gpus}.` : `Nothing fits on ${plan.gpus}: ${of}.`;
}

/** @param {any} plan @param {{space?: string}} asked for @returns {HTMLElement[]} */
export function planView(plan, asked) {
  const rows = plan.ranked.length ? plan.ranked : plan.nearest ? [plan.nearest] : [];
  const [best] = rows;
  const unprobed = [...new Set(rows.map((row) => row.unprobed).filter(Boolean))];
  return [
    isOtherTraining(plan, asked) && element("p", { class: "notice" }, "Full fine-tuning does not fit; these are LoRA configurations. Choose the space lora to start a job of them."),
    plan.advice.length > 0 && element("ul", { class: "notice" }, plan.advice.map((advice) => element("li", {}, advice))),
    best && bestOf(plan, best),
    best?.fits && caveats(best.config).map((words) => element("p", { class: "notice" }, `Mind the first: ${words}`)),
    rows.length > 1 && candidates(rows),
    unprobed.map((reason) => element("p", { class: "hint" }, `* forecast only: ${reason}`)),
    plan.rejected.length > 0 && leftOut(plan.rejected),
    plan.notes.map((note) => element("p", { class: "hint" }, `Note: ${note}`)),
  ].filter(Boolean);
}

/** Whether only what trains adapters fits, which nobody asked for. */
function isOtherTraining({ ranked }, { space, settings }) {
  return !space && !settings?.adaptation && ranked.length > 0 && ranked.every((row) => row.config.adaptation === "lora");
}

function bestOf(plan, best) {
  const held = heldBy(best);
  const more = [best.mfu !== null && `MFU ${percent(best.mfu)}`, plan.calibrated_by > 0 && `calibrated by ${counted(plan.calibrated_by, "measurement")} on this hardware`].filter(Boolean);
  const speed = [element("strong", {}, figure(best.tokens_per_second)), ` tokens/s, forecast${more.map((words) => ` · ${words}`).join("")}`];
  const need = [element("strong", {}, bytes(held)), ` per device, of ${bytes(best.ceiling_bytes)} that there are`];
  return element(
    "div",
    { class: "stack" },
    element("p", { class: "eyebrow" }, plan.ranked.length ? "The fastest that fits" : "What needs least"),
    element("p", { class: "headline" }, plan.ranked.length ? speed : need),
    element("ul", { class: "chips" }, chips(best.config).map((word) => element("li", {}, word))),
    memoryBar(best.memory, { held, ceiling: best.ceiling_bytes, usable: best.ceiling_bytes * (1 - plan.headroom) }),
    best.host_bytes > 0 && element("p", { class: "hint" }, `Offloads ${bytes(best.host_bytes)} to the CPU memory of each node.`),
  );
}

function candidates(rows) {
  const { fields, common } = inCommon(rows.map((row) => row.config));
  const groups = new Set(rows.map((row) => row.gpus)).size > 1;
  const made = rows.map((row, index) =>
    element(
      "tr",
      {},
      number(index + 1),
      number(figure(row.tokens_per_second) + (row.unprobed ? "*" : "")),
      number(bytes(heldBy(row))),
      element("td", {}, describe(row.config, fields), groups && element("span", { class: "dim" }, ` on ${row.gpus}`)),
    ),
  );
  const headings = [{ text: "#", number: true }, { text: "tokens/s", number: true }, { text: "device memory", number: true }, "configuration"];
  return element("div", {}, table("The best candidates", headings, made, { shown: true }), common && element("p", { class: "hint" }, `All with ${common}.`));
}

/** What a space holds that is not looked at, by reason. */
export function leftOut(rejected) {
  return element(
    "details",
    {},
    element("summary", {}, `Why ${count(rejected.reduce((sum, each) => sum + each.count, 0))} others are left out`),
    element("ul", { class: "plain" }, rejected.map((each) => element("li", {}, element("b", {}, count(each.count)), `: ${each.reason}`))),
  );
}
