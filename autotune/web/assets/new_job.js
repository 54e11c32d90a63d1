/** The page where a job is asked for: the form, and beside it the forecast of what is being typed. */

import { get, newKey, post, Problem } from "./api.js";
import { byId, element, fill, say } from "./dom.js";
import { errorsOf, FormErrors, readable } from "./form_errors.js";
import { planSentence, planView } from "./forecast.js";
import { jobBody, NotSaid, planBody } from "./request.js";
import { count, short } from "./words.js";

const PAUSE_MS = 400;

/** Fields of the form that a forecast is made from. */
const FORECAST_FIELDS = ["model", "model_name", "gpus", "ceiling", "headroom", "space", "settings", "sequence_length", "global_batch_size", "global_batch_tolerance"];

const form = byId("form");
/** Content of a config.json, in place of a preset's name. */
let content = null;
const errors = new FormErrors(form, () => content !== null);
let models = new Map();
let spaces = new Map();
let timer = 0;
let asked = new AbortController();
/** What was sent last, under which key: the same form sent twice is one job. */
let sent = { text: "", key: "" };

/** What cannot be said beside a field. */
const sayBelow = (words) => say(byId("wrong"), words.filter(Boolean).join("; "));

function later(event) {
  clearTimeout(timer);
  asked.abort();
  // A model's name that is still being typed is no name yet.
  const unfinished = event?.type === "input" && event.target.name === "model" && !models.has(form.elements.model.value.trim());
  if (!unfinished) timer = setTimeout(forecast, PAUSE_MS);
}

/** Speaks of the fields that a forecast is made from: what is wrong with others is for them to take back. */
async function forecast() {
  asked = new AbortController();
  const { signal } = asked;
  let body = {};
  try {
    body = planBody(form, content);
    if (!body.model) return;
    byId("forecast-card").setAttribute("aria-busy", "true");
    const plan = await post("/v1/plans", body, { signal });
    errors.clear(FORECAST_FIELDS);
    byId("forecast-status").textContent = planSentence(plan);
    fill(byId("forecast"), planView(plan, body));
    showStale(false);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    errors.clear(FORECAST_FIELDS);
    noForecast(problem);
  } finally {
    if (!signal.aborted) byId("forecast-card").removeAttribute("aria-busy");
  }
}

function noForecast(problem) {
  const told = toldBy(problem);
  errors.show(told);
  const words = told.map(({ field, message }) => readable({ field, message }).message).join("; ");
  const before = byId("forecast").childElementCount ? " Below is that of the form as it was before." : "";
  byId("forecast-status").textContent = `No forecast: ${words}.${before}`;
  showStale(true);
}

/** Whether what the card shows is of another form than the one beside it. */
const showStale = (isStale) => byId("forecast").classList.toggle("stale", isStale);

function toldBy(problem) {
  if (problem instanceof NotSaid) return [problem];
  if (problem instanceof Problem) return errorsOf(problem);
  throw problem;
}

async function submit(event) {
  event.preventDefault();
  clearTimeout(timer);
  asked.abort();
  byId("forecast-card").removeAttribute("aria-busy");
  const button = byId("submit");
  errors.clear();
  sayBelow([]);
  try {
    const body = jobBody(form, content);
    const text = JSON.stringify(body);
    if (text !== sent.text) sent = { text, key: newKey() };
    button.disabled = true;
    const job = await post("/v1/jobs", body, { headers: { "Idempotency-Key": sent.key } });
    location.assign(`/jobs/${encodeURIComponent(job.name)}`);
  } catch (problem) {
    sayBelow(errors.show(toldBy(problem)));
    errors.focusFirst();
  } finally {
    button.disabled = false;
  }
}

async function take(file) {
  if (!file) return;
  errors.clear(["file", "model"]);
  try {
    const read = JSON.parse(await file.text());
    if (read === null || typeof read !== "object" || Array.isArray(read)) throw new SyntaxError("it holds no object");
    content = read;
  } catch (error) {
    errors.show([{ field: "file", message: `${file.name} is no JSON of a model: ${error.message}` }]);
    return;
  }
  const path = typeof content._name_or_path === "string" ? content._name_or_path.split("/").filter(Boolean).pop() : "";
  form.elements.model_name.value = path || content.model_type || file.name.replace(/\.json$/i, "");
  const size = [content.num_hidden_layers && `${content.num_hidden_layers} layers`, content.hidden_size && `hidden size ${count(content.hidden_size)}`];
  byId("hint-model_name").textContent = [`From ${file.name}`, content.architectures?.[0], ...size].filter(Boolean).join(", ");
  showModelFields();
  later();
}

function showModelFields() {
  byId("content-field").hidden = content === null;
  byId("model-field").hidden = byId("drop").hidden = content !== null;
}

function showHints() {
  const known = models.get(form.elements.model.value.trim());
  byId("hint-model").textContent = known
    ? `${short(known.parameters)} parameters, ${known.layers} layers, hidden size ${count(known.hidden_size)}${known.experts > 1 ? `, ${known.experts} experts` : ""}`
    : "A preset; type a part of its name to find it.";
  const space = spaces.get(form.elements.space.value);
  byId("hint-space").textContent = space ? `${space.description}. Varies ${space.varies.join(", ")}.` : "What may vary.";
}

async function loadLists() {
  const [known, gpus, shipped] = await Promise.all([get("/v1/models"), get("/v1/gpus"), get("/v1/spaces")]);
  models = new Map(known.models.map((model) => [model.name, model]));
  spaces = new Map(shipped.spaces.map((space) => [space.name, space]));
  fill(byId("models"), known.models.map((model) => element("option", { value: model.name }, `${short(model.parameters)} parameters`)));
  const here = gpus.here.map((group) => `${group.nodes > 1 ? `${group.nodes} nodes of ` : ""}${group.per_node} × ${group.name} with ${group.memory_gib_each} GiB each`);
  fill(
    byId("gpu-kinds"),
    element("option", { value: "auto" }, `what the server finds: ${here.join("; ")}`),
    element("option", { value: "cpu:2" }, "two ranks on CPUs"),
    gpus.gpus.map((gpu) => element("option", { value: `${gpu.name}:8` }, `8 GPUs of ${gpu.memory_gib} GiB`)),
  );
  if (here.length) byId("hint-gpus").textContent = `auto takes ${here.join("; ")}. Or H100:8, 2x8xH100-80GB, cpu:2.`;
  byId("space").append(...shipped.spaces.map((space) => element("option", { value: space.name }, `${space.name}: ${space.description}`)));
}

/** Wherever on the page a file is dropped: a browser would leave the form for it. */
function acceptDrops(zone) {
  const isOfFile = (event) => event.dataTransfer.types.includes("Files");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      if (!isOfFile(event)) return;
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => zone.classList.toggle("over", event.relatedTarget !== null));
  document.addEventListener("drop", (event) => {
    if (!isOfFile(event)) return;
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

form.addEventListener("submit", submit);
form.addEventListener("input", later);
form.addEventListener("input", ({ target }) => errors.clear([target.name || target.id]));
form.addEventListener("input", showHints);
form.elements.model.addEventListener("change", later);
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
byId("drop-model").addEventListener("click", () => {
  errors.clear(["model"]);
  content = null;
  byId("file").value = "";
  showModelFields();
  form.elements.model.focus();
  later();
});
acceptDrops(byId("drop"));
loadLists().then(() => { showHints(); later(); }, (problem) => say(byId("wrong"), problem.message));
