/** How configurations, figures and spans of time are put into words: as the terminal does, from its own tables. */

const WORDS = JSON.parse(document.getElementById("words").textContent);

export const { evidence, outcomes, terms, rounds, contenders, usual } = WORDS;
/** Field of a configuration → its name, in the order of reading. */
export const headings = Object.fromEntries(WORDS.headings);
export const FIELDS = Object.keys(headings);

const ENDED = new Set(["finished", "failed", "cancelled"]);
const STATUSES = {
  queued: "waits for a worker",
  running: "is being tuned",
  paused: "interrupted; can be resumed",
  finished: "",
  failed: "came to nothing; can be resumed",
  cancelled: "given up",
};
const COUNTS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

export const hasEnded = (status) => ENDED.has(status);
export const canResume = (status) => status === "paused" || status === "failed";
export const canCancel = (status) => !ENDED.has(status);
export const statusWords = (status) => STATUSES[status] ?? "";
export const spoken = (outcome) => outcome.replaceAll("_", " ");

/** One field in words, or nothing where its value goes without saying. */
export function fieldWord(config, field) {
  const value = config[field];
  if (value === undefined || (!WORDS.never_unsaid.includes(field) && value === usual[field])) return "";
  return (WORDS.said[field] ?? `${field}={}`).replace("{}", String(value));
}

/** The fields that tell a configuration from others, as words in the order of reading. */
export const chips = (config, fields = FIELDS) => fields.map((field) => fieldWord(config, field)).filter(Boolean);

export const describe = (config, fields = FIELDS) => chips(config, fields).join(" ");

/** Fields that have to be said of each of `configs`, and what they have in common, as one line. */
export function inCommon(configs) {
  const varies = (field) => new Set(configs.map((config) => config[field])).size > 1;
  const fields = FIELDS.filter((field) => WORDS.always.includes(field) || varies(field));
  const rest = FIELDS.filter((field) => !fields.includes(field) && configs.length && fieldWord(configs[0], field));
  return { fields, common: rest.map((field) => `${headings[field]} ${configs[0][field]}`).join(", ") };
}

/** What a probe cannot see of a configuration. */
export const caveats = (config) =>
  WORDS.caveats.filter(([field, value]) => config[field] === value).map(([, , words]) => words);

/** Three digits at least, and no more decimals than that takes. */
export function figure(number) {
  return number >= 100 ? count(number) : String(Number(number.toPrecision(3)));
}

export const count = (number) => Math.round(number).toLocaleString("en-US");
export const interval = (estimate) => `${figure(estimate.low)} to ${figure(estimate.high)}`;
export const times = (ratio) => `${ratio.toFixed(2)}×`;
/** A speed-up, in words that promise no more than its interval does. */
export function againstBaseline({ median, low, high }) {
  if (isSure({ low })) return `${times(median)} the baseline (95 % interval ${low.toFixed(2)} to ${high.toFixed(2)})`;
  return `not surely faster than the baseline (${times(median)}, could be ${times(low)} to ${times(high)})`;
}

/** Whether a speed-up is one, whatever chance had to do with it. */
export const isSure = (speedup) => Boolean(speedup) && speedup.low > 1;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const sentence = (words) => words[0].toUpperCase() + words.slice(1);
export const counted = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

export function signedPercent(share) {
  const whole = Math.round(100 * share);
  return `${whole < 0 ? "−" : "+"}${Math.abs(whole)} %`;
}

/** `1.07 GiB`, and `512 MiB` where GiB would be less than one. */
export function bytes(size) {
  const gib = size / 2 ** 30;
  if (gib < 1) return `${count(size / 2 ** 20)} MiB`;
  return `${gib.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })} GiB`;
}

/** `8.03 B` parameters. */
export function short(number) {
  const [size, letter] = COUNTS.find(([each]) => number >= 0.9995 * each) ?? [1, ""];
  return `${Number((number / size).toPrecision(3))} ${letter}`.trim();
}

/** `17 s`, `2 min 38 s`, `1 h 02 min`. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const two = (number) => String(number).padStart(2, "0");
  if (hours) return `${hours} h ${two(minutes)} min`;
  return minutes ? `${minutes} min ${two(whole % 60)} s` : `${whole} s`;
}

/** `under a minute`, `about 4 min`, `about 1 h 20 min`. */
export function roughly(seconds) {
  if (seconds < 60) return "under a minute";
  const whole = Math.round(seconds / 60);
  const hours = Math.floor(whole / 60);
  return hours ? `about ${hours} h ${String(whole % 60).padStart(2, "0")} min` : `about ${whole} min`;
}

/** A moment, in the reader's own time. */
export function moment(iso) {
  return new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** How long ago a moment was. */
export function ago(iso) {
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return moment(iso);
}
