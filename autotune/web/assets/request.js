/** From the form to what is sent: what is left empty is left out, for the server to decide. */

/** A field that cannot be read. */
export class NotSaid extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** @param {HTMLFormElement} form @param {object|null} content of a config.json */
export function planBody(form, content) {
  return { ...question(form, content), top: 8 };
}

export function jobBody(form, content) {
  const read = reader(form);
  const body = {
    ...question(form, content),
    ...without({
      name: read.text("name"),
      baseline: pairs(read.text("baseline"), "baseline"),
      min_speed: read.share("min_speed"),
      trials: read.number("trials"),
      minutes: read.number("minutes"),
      gpu_hours: read.number("gpu_hours"),
      sampler: read.text("sampler"),
      stop_below: read.share("stop_below"),
      seed: read.number("seed"),
      probe_seconds: read.number("probe_seconds"),
      executor: read.text("executor"),
      fresh: form.elements.fresh.checked || undefined,
    }),
  };
  if (!body.model) throw new NotSaid("model", "which model? choose a preset, or a config.json");
  return body;
}

function question(form, content) {
  const read = reader(form);
  const settings = Object.fromEntries(lines(read.text("settings")).map((line) => setting(line)));
  const lengths = read.text("sequence_length");
  if (lengths) settings.sequence_length = lengths.split(",").map((length) => wholeNumber(length, "sequence_length"));
  return without({
    model: content ?? read.text("model"),
    model_name: content ? read.text("model_name") : undefined,
    gpus: read.text("gpus") ?? "auto",
    ceiling: read.text("ceiling"),
    headroom: read.share("headroom"),
    space: read.text("space"),
    settings: Object.keys(settings).length ? settings : undefined,
    global_batch_size: read.number("global_batch_size"),
    global_batch_tolerance: read.share("global_batch_tolerance"),
  });
}

function reader(form) {
  const text = (name) => form.elements[name].value.trim() || undefined;
  const number = (name) => {
    if (form.elements[name].validity.badInput) throw new NotSaid(name, "this is not a number");
    const written = text(name);
    return written === undefined ? undefined : Number(written);
  };
  const share = (name) => {
    const percent = number(name);
    return percent === undefined ? undefined : Number((percent / 100).toPrecision(12));
  };
  return { text, number, share };
}

const without = (body) => Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
const lines = (text) => (text ?? "").split("\n").map((line) => line.trim()).filter(Boolean);

function setting(line) {
  const [field, values] = split(line, "settings");
  return [field, values.split(",").map((value) => valueOf(value))];
}

function pairs(text, name) {
  if (!text) return undefined;
  const written = text.split(/[,\n]/).map((pair) => pair.trim()).filter(Boolean);
  return Object.fromEntries(written.map((pair) => split(pair, name)).map(([field, value]) => [field, valueOf(value)]));
}

function split(pair, name) {
  const at = pair.indexOf("=");
  if (at < 1) throw new NotSaid(name, `'${pair}' is not field=value`);
  return [pair.slice(0, at).trim(), pair.slice(at + 1)];
}

function wholeNumber(text, name) {
  if (!/^\s*\d+\s*$/.test(text)) throw new NotSaid(name, `'${text.trim()}' is not a whole number`);
  return Number(text);
}

function valueOf(text) {
  const value = text.trim();
  if (/^\d+$/.test(value)) return Number(value);
  return { true: true, false: false }[value] ?? value;
}
