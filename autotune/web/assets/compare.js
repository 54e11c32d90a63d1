/** Two jobs side by side: what they found, and in what they differ. */

import { get, jobPath } from "./api.js";
import { comparison, partsOf } from "./best.js";
import { byId, element, fill, say } from "./dom.js";
import { memoryBar } from "./memory_bar.js";
import { table } from "./table.js";
import { bytes, clock, count, evidence, FIELDS, figure, headings, interval, spoken, times } from "./words.js";

const main = byId("content");

async function readJob(name) {
  const [job, answer] = await Promise.all([get(jobPath(name)), get(`${jobPath(name)}/recommendation`)]);
  return { job, answer, chosen: answer.recommendation };
}

const lengthsOf = (a, b) => [a, b].map(({ chosen }) => chosen?.config.sequence_length);

/** Why their figures should be held against each other with care, or not at all. */
function cautions(a, b) {
  const lengths = lengthsOf(a, b);
  return [
    a.job.model !== b.job.model && `They train different models, ${a.job.model} and ${b.job.model}.`,
    a.job.gpus !== b.job.gpus && `They run on different GPUs, ${a.job.gpus} and ${b.job.gpus}.`,
    lengths.every(Boolean) && lengths[0] !== lengths[1] && `They train on sequences of different lengths, ${lengths.map(count).join(" and ")} tokens: tokens/s of one are not those of the other.`,
    a.chosen && b.chosen && a.chosen.global_batch_size !== b.chosen.global_batch_size && `Their global batches differ: ${a.chosen.global_batch_size} and ${b.chosen.global_batch_size} sequences a step.`,
    [a, b].some(({ chosen }) => chosen && chosen.evidence !== "confirmed") && "Not both figures are confirmed by further probes.",
  ].filter(Boolean);
}

function verdict(a, b) {
  if (!a.chosen || !b.chosen) return "Not both have something to recommend.";
  const [first, second] = lengthsOf(a, b);
  if (a.job.model !== b.job.model || first !== second) return "Their tokens/s do not compare: each is the fastest that was found of another training.";
  const [slow, fast] = a.chosen.tokens_per_second.median <= b.chosen.tokens_per_second.median ? [a, b] : [b, a];
  const [low, high] = [slow.chosen.tokens_per_second, fast.chosen.tokens_per_second];
  const ratio = high.median / low.median;
  const overlap = high.low <= low.high ? "; their intervals overlap, so this may be chance" : "";
  return `${fast.job.name} makes ${times(ratio)} the tokens/s of ${slow.job.name}${overlap}.`;
}

function bar({ job, answer, chosen }, scale) {
  if (!chosen) return "–";
  return memoryBar(partsOf(answer), { held: chosen.peak_bytes, ceiling: job.ceiling_bytes, usable: job.usable_bytes, scale });
}

function figures(a, b) {
  const scale = Math.max(...[a, b].flatMap(({ job, chosen }) => [job.ceiling_bytes, chosen?.peak_bytes ?? 0])) * 1.02;
  const of = (chosen, say) => (chosen ? say(chosen) : "–");
  return [
    ["status", ({ job }) => element("span", { class: `badge ${job.status}` }, spoken(job.status))],
    ["tokens/s", ({ chosen }) => of(chosen, ({ tokens_per_second: speed }) => [element("b", {}, figure(speed.median)), element("small", {}, interval(speed))])],
    ["against its baseline", ({ chosen }) => of(chosen, comparison)],
    ["evidence", ({ chosen }) => of(chosen, (found) => evidence[found.evidence])],
    ["peak of the worst rank", (one) => bar(one, scale)],
    ["model", ({ job }) => job.model],
    ["GPUs", ({ job }) => job.gpus],
    ["ceiling", ({ job }) => bytes(job.ceiling_bytes)],
    ["global batch", ({ chosen }) => of(chosen, (found) => `${count(found.global_batch_size)} sequences a step`)],
    ["trials", ({ answer }) => count(answer.spent.trials)],
    ["time spent", ({ job }) => clock(job.spent_s)],
  ].map(([name, cell]) => row(name, cell(a), cell(b), false));
}

function row(name, first, second, differs) {
  return element("tr", { class: differs ? "differs" : null }, element("th", { scope: "row" }, name), element("td", {}, first), element("td", {}, second));
}

function configurations(a, b, columns) {
  if (!a.chosen || !b.chosen) return [];
  const [one, other] = [a.chosen.config, b.chosen.config];
  const different = FIELDS.filter((field) => one[field] !== other[field]);
  const same = FIELDS.filter((field) => one[field] === other[field]);
  const rows = (fields, differs) => fields.map((field) => row(headings[field], String(one[field]), String(other[field]), differs));
  return [
    element("section", { class: "card" }, element("h2", {}, "Configuration"), different.length ? table("Where the configurations differ", columns, rows(different, true)) : element("p", {}, "Both recommend the same configuration."), element("details", {}, element("summary", {}, `The same in both, ${same.length} fields`), table("What both configurations share", columns, rows(same, false)))),
  ];
}

async function show() {
  try {
    const [a, b] = await Promise.all([readJob(main.dataset.a), readJob(main.dataset.b)]);
    const columns = [{ text: "what", unseen: true }, ...[a, b].map(({ job }) => job.name)];
    const found = cautions(a, b);
    fill(
      byId("comparison"),
      element("p", { class: "verdict" }, verdict(a, b)),
      found.length > 0 && element("ul", { class: "notice" }, found.map((words) => element("li", {}, words))),
      element("section", { class: "card" }, element("h2", {}, "What they found"), table("What the two jobs found", columns, figures(a, b))),
      configurations(a, b, columns),
      element("p", { class: "actions" }, [a, b].map(({ job }) => element("a", { class: "button", href: `/jobs/${encodeURIComponent(job.name)}` }, `Open ${job.name}`))),
    );
  } catch (problem) {
    say(byId("notice"), problem.message);
  }
}

if (main.dataset.a && main.dataset.b) show();
else say(byId("notice"), "Choose two jobs in the list of jobs.");
