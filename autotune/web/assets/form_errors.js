/** What is wrong with a form, said beside the field that it is about. */

import { say } from "./dom.js";

/** Fields that people write in percent and the server knows as shares. */
const SHARES = new Set(["headroom", "min_speed", "stop_below", "global_batch_tolerance"]);
/** Sentences that name no field → the one that they are about; of `--option …` it is the option's. */
const ABOUT = [
  [/^unknown sampler/, "sampler"],
  [/model's configuration|model_type|config\.json/, "model"],
];

export class FormErrors {
  /** @param {HTMLFormElement} form @param {() => boolean} isContent whether the model is a file's content */
  constructor(form, isContent) {
    this.form = form;
    this.isContent = isContent;
  }

  /**
   * Say each beside its field, which comes into sight for that.
   *
   * @param {{field: string, message: string}[]} errors
   * @returns {string[]} what no field is there for
   */
  show(errors) {
    const homeless = [];
    for (const { field, message } of errors.map(readable)) {
      const id = this.placeOf(field);
      if (!id) {
        homeless.push(field ? `${field}: ${message}` : message);
        continue;
      }
      const place = placeFor(id);
      say(place, place.textContent ? `${place.textContent}; ${message}` : message);
      this.form.elements[id]?.setAttribute("aria-invalid", "true");
      place.closest("details")?.setAttribute("open", "");
    }
    return homeless;
  }

  /** @param {Iterable<string>} [fields] of the request; all where they are not said */
  clear(fields = [...this.form.querySelectorAll(".error")].map((place) => place.id.replace("error-", ""))) {
    for (const field of fields) {
      const id = this.placeOf(field);
      if (!id) continue;
      say(placeFor(id), "");
      this.form.elements[id]?.removeAttribute("aria-invalid");
    }
  }

  focusFirst() {
    this.form.querySelector("[aria-invalid]")?.focus();
  }

  /** Where to say what is wrong with a field of the request: `settings.sequence_length`, `gpus`, `ceiling`. */
  placeOf(field) {
    const names = field.split(".");
    const id = names.toReversed().find(placeFor);
    return id === "model" && this.isContent() ? "model_name" : id;
  }
}

const placeFor = (id) => document.getElementById(`error-${id}`);

/** What a problem of the server's says, field by field. */
export const errorsOf = (problem) => (problem.errors.length ? problem.errors : [{ field: "", message: problem.message }]);

/** Its field as the form has it, where the words tell more of it than the server did, and no words of its tools. */
export function readable({ field, message }) {
  const words = message.replace(/^Value error, /, "");
  const option = /^--([a-z-]+) /.exec(words);
  if (option && placeFor(underscored(option[1]))) return { field: underscored(option[1]), message: words.slice(option[0].length) };
  const dimension = /^dimensions[:.] ?(?:(\w+): )?/.exec(words);
  if (dimension) return { field: `settings.${dimension[1] ?? ""}`, message: placeFor(dimension[1]) ? words.slice(dimension[0].length) : words.replace(/^dimensions[:.] ?/, "") };
  if (!field) return { field: ABOUT.find(([about]) => about.test(words))?.[1] ?? "", message: words };
  return { field, message: SHARES.has(field) ? words.replace(/than (or equal to )?([\d.]+)$/, (_, orEqual = "", bound) => `than ${orEqual}${100 * bound} %`) : words };
}

const underscored = (name) => name.replaceAll("-", "_");
