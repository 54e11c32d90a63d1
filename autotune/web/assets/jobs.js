/** The list of jobs. */

import { get } from "./api.js";
import { byId, element, fill, say } from "./dom.js";
import { number, table } from "./table.js";
import { ago, bytes, clock, figure, isSure, moment, spoken, times } from "./words.js";

const PAGE = 50;
const REFRESH_MS = 5000;
const PAUSE_MS = 300;

const filters = byId("filters");
const chosen = new Set();
let pages = 1;
let timer = 0;
let drawn = "";
/** Answers that come after a later question are dropped. */
let question = 0;

function query(before) {
  const asked = new URLSearchParams({ limit: String(PAGE) });
  for (const name of ["status", "q"]) if (filters.elements[name].value.trim()) asked.set(name, filters.elements[name].value.trim());
  if (before) asked.set("before", before);
  return asked;
}

async function read() {
  clearTimeout(timer);
  question += 1;
  const mine = question;
  try {
    const jobs = [];
    let next = null;
    for (let page = 0; page < pages; page += 1) {
      const found = await get(`/v1/jobs?${query(next)}`);
      jobs.push(...found.jobs);
      next = found.next;
      if (!next) break;
    }
    if (mine !== question) return;
    say(byId("notice"), "");
    draw(jobs, next);
  } catch (problem) {
    if (mine !== question) return;
    say(byId("notice"), `${problem.message} Trying again.`);
  }
  timer = setTimeout(read, REFRESH_MS);
}

function draw(jobs, next) {
  byId("list").removeAttribute("aria-busy");
  byId("more").hidden = !next;
  const made = JSON.stringify([jobs, next]);
  if (made === drawn) return;
  drawn = made;
  const focused = document.activeElement?.closest("#list") && document.activeElement.id;
  fill(byId("list"), jobs.length ? list(jobs) : nothing());
  if (focused) byId(focused)?.focus();
  showChosen();
}

function nothing() {
  const isFiltered = filters.elements.status.value || filters.elements.q.value.trim();
  if (isFiltered) return element("p", {}, "No job is like this.");
  return element("p", {}, "No job yet. ", element("a", { href: "/jobs/new" }, "Ask for one"), ", or run ", element("code", {}, "autotune tune MODEL --gpus SPEC"), " on this database.");
}

function list(jobs) {
  const headings = [{ text: "choose", unseen: true }, "name", "status", { text: "tokens/s", number: true }, { text: "speed-up", number: true, rest: true }, { text: "model", rest: true }, { text: "GPUs", rest: true }, { text: "ceiling", number: true, rest: true }, { text: "spent", number: true, rest: true }, { text: "changed", number: true, rest: true }];
  return table("Jobs, latest first", headings, jobs.map(row), { stacks: true });
}

function row(job) {
  const box = element("input", { type: "checkbox", id: `choose-${job.name}`, "aria-label": `Choose ${job.name} to compare`, checked: chosen.has(job.name) });
  box.addEventListener("change", () => choose(job.name, box.checked));
  return element(
    "tr",
    {},
    element("td", { class: "choice" }, box),
    element("th", { scope: "row" }, element("a", { id: `open-${job.name}`, href: `/jobs/${encodeURIComponent(job.name)}` }, job.name)),
    element("td", {}, element("span", { class: `badge ${job.status}` }, spoken(job.status)), job.reason && job.status !== "finished" && job.reason !== job.status && element("small", {}, job.reason)),
    number(job.tokens_per_second === null ? "–" : figure(job.tokens_per_second)),
    number(job.speedup === null ? "–" : times(job.speedup), isSure({ low: job.speedup_low }) ? { class: "rest" } : { class: "rest dim", title: job.speedup && "not surely faster than the baseline" }),
    element("td", { class: "rest" }, job.model),
    element("td", { class: "rest" }, job.gpus),
    number(bytes(job.ceiling_bytes), { class: "rest" }),
    number(clock(job.spent_s), { class: "rest" }),
    element("td", { class: "number rest", title: moment(job.updated_at) }, ago(job.updated_at)),
  );
}

/** Two at most: the one that was chosen first gives way. */
function choose(name, isChosen) {
  chosen.delete(name);
  if (isChosen) {
    const [first] = chosen;
    if (chosen.size === 2) {
      chosen.delete(first);
      const box = byId(`choose-${first}`);
      if (box) box.checked = false;
    }
    chosen.add(name);
  }
  showChosen();
}

function showChosen() {
  const names = [...chosen];
  const link = byId("compare");
  if (names.length === 2) {
    link.href = `/jobs/compare?${new URLSearchParams({ a: names[0], b: names[1] })}`;
    link.removeAttribute("aria-disabled");
  } else {
    link.removeAttribute("href");
    link.setAttribute("aria-disabled", "true");
  }
  byId("chosen").textContent = { 0: "Choose two to compare.", 1: `${names[0]} and one more.`, 2: `${names.join(" and ")}.` }[names.length];
}

function refilter() {
  pages = 1;
  const shown = query(null);
  shown.delete("limit");
  history.replaceState(null, "", shown.size ? `?${shown}` : location.pathname);
  read();
}

const asked = new URLSearchParams(location.search);
for (const name of ["status", "q"]) filters.elements[name].value = asked.get(name) ?? "";
filters.addEventListener("submit", (event) => { event.preventDefault(); refilter(); });
filters.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(refilter, PAUSE_MS); });
byId("more").addEventListener("click", () => { pages += 1; read(); });
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : read()));
showChosen();
read();
