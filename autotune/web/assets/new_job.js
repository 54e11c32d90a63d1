/** The page where a job is asked for: the form, and beside it the forecast of what is being typed. */

import { get, newKey, post, Problem } from "./api.js";
import { byId, element, fill, say } from "./dom.js";
import { planSentence, planView } from "./forecast.js";
import { jobBody, NotSaid, planBody } from "./request.js";
import { count, short } from "./words.js";

const PAUSE_MS = 400;

const form = byId("form");
/** Content of a config.json, in place of a preset's name. */
let content = null;
let models = new Map();
let spaces = new Map();
let timer = 0;
let asked = new AbortController();
/** What was sent last, under which key: the same form sent twice is one job. */
let sent = { text: "", key: "" };

function showErrors(errors, rest) {
  for (const place of form.querySelectorAll(".error")) {
    say(place, "");
    form.elements[place.id.replace("error-", "")]?.removeAttribute("aria-invalid");
  }
  const homeless = [];
  for (const { field, message } of errors) {
    const place = placeOf(field);
    if (!place) {
      homeless.push(`${field}: ${message}`);
      continue;
    }
    const [id, error] = place;
    say(error, error.textContent ? `${error.textContent}; ${message}` : message);
    form.elements[id]?.setAttribute("aria-invalid", "true");
    error.closest("details")?.setAttribute("open", "");
  }
  say(byId("wrong"), [...homeless, rest].filter(Boolean).join("; "));
}

/** Where to say what is wrong with a field of the request: `settings.sequence_length`, `gpus`, `ceiling`. */
function placeOf(field) {
  const names = field.split(".");
  const found = names.toReversed().concat(names).find((name) => document.getElementById(`error-${name}`));
  const id = found === "model" && content ? "model_name" : found;
  return id ? [id, byId(`error-${id}`)] : null;
}

function showProblem(problem) {
  if (problem instanceof NotSaid) showErrors([problem], "");
  else if (problem instanceof Problem && problem.errors.length) showErrors(problem.errors, "");
  else if (problem instanceof Problem) showErrors(namedIn(problem.message), namedIn(problem.message).length ? "" : problem.message);
  else throw problem;
}

/** Sentences of the terminal name a field as an option, `--ceiling 99GiB is more than …`, or as part of a space. */
function namedIn(message) {
  if (message.startsWith("dimensions")) return [{ field: "settings", message: message.replace(/^dimensions(: |\.)/, "") }];
  const field = /^--([a-z-]+) /.exec(message)?.[1].replaceAll("-", "_");
  return field && byId(`error-${field}`) ? [{ field, message: message.replace(/^--\S+ /, "") }] : [];
}

function later(event) {
  clearTimeout(timer);
  asked.abort();
  // A model's name that is still being typed is no name yet.
  const unfinished = event?.type === "input" && event.target.name === "model" && !models.has(form.elements.model.value.trim());
  if (!unfinished) timer = setTimeout(forecast, PAUSE_MS);
}

async function forecast() {
  asked = new AbortController();
  const { signal } = asked;
  const card = byId("forecast-card");
  let body;
  try {
    body = planBody(form, content);
  } catch (problem) {
    showProblem(problem);
    return;
  }
  if (!body.model) return;
  card.setAttribute("aria-busy", "true");
  try {
    const plan = await post("/v1/plans", body, { signal });
    showErrors([], "");
    byId("forecast-status").textContent = planSentence(plan);
    fill(byId("forecast"), planView(plan));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    byId("forecast-status").textContent = problem.status ? "No forecast: something in the form is not right yet." : `No forecast: ${problem.message}`;
    fill(byId("forecast"));
    showProblem(problem);
  } finally {
    if (!signal.aborted) card.removeAttribute("aria-busy");
  }
}

async function submit(event) {
  event.preventDefault();
  const button = byId("submit");
  try {
    const body = jobBody(form, content);
    const text = JSON.stringify(body);
    if (text !== sent.text) sent = { text, key: newKey() };
    button.disabled = true;
    const job = await post("/v1/jobs", body, { headers: { "Idempotency-Key": sent.key } });
    location.assign(`/jobs/${encodeURIComponent(job.name)}`);
  } catch (problem) {
    showProblem(problem);
    form.querySelector("[aria-invalid]")?.focus();
  } finally {
    button.disabled = false;
  }
}

async function take(file) {
  if (!file) return;
  try {
    const read = JSON.parse(await file.text());
    if (read === null || typeof read !== "object" || Array.isArray(read)) throw new SyntaxError("it holds no object");
    content = read;
  } catch (error) {
    showErrors([{ field: "model", message: `${file.name} is no JSON of a model: ${error.message}` }], "");
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

function acceptDrops(zone) {
  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

form.addEventListener("submit", submit);
form.addEventListener("input", later);
form.addEventListener("input", showHints);
form.elements.model.addEventListener("change", later);
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
byId("drop-model").addEventListener("click", () => {
  content = null;
  byId("file").value = "";
  showModelFields();
  form.elements.model.focus();
  later();
});
acceptDrops(byId("drop"));
loadLists().then(() => { showHints(); later(); }, (problem) => say(byId("wrong"), problem.message));
