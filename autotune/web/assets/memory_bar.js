/** Where the memory of one rank goes, against the ceiling. */

import { element } from "./dom.js";
import { bytes, terms } from "./words.js";

/**
 * @param {Record<string, number>} parts bytes by part
 * @param {{held: number, ceiling: number, usable: number, scale?: number, split?: string}} sizes `held`: what the parts are
 *   stretched to; `split`: how the parts are known; `scale`: the bytes that the whole width stands for, where several bars are to compare
 */
export function memoryBar(parts, { held, ceiling, usable, scale, split }) {
  const sum = Object.values(parts).reduce((total, size) => total + size, 0) || 1;
  const whole = scale ?? Math.max(ceiling, held) * 1.02;
  const shares = Object.entries(parts).filter(([, size]) => size > 0).map(([part, size]) => [part, (size / sum) * held]);
  const words = shares.map(([part, size]) => `${part} ${bytes(size)}`).join(", ");
  const of = `${bytes(held)} of the ceiling of ${bytes(ceiling)}, ${bytes(usable)} usable`;
  return element(
    "figure",
    { class: "memory" },
    element(
      "div",
      { class: "bar", role: "img", "aria-label": `Memory of the worst rank: ${of}: ${words}` },
      shares.map(([part, size]) => piece(`part ${part}`, size / whole, [`${part} ${bytes(size)}`, terms[part]].filter(Boolean).join(": "))),
      line("usable", usable / whole, `usable ${bytes(usable)}: ${terms.usable}`),
      line("ceiling", ceiling / whole, `ceiling ${bytes(ceiling)}`),
    ),
    element(
      "figcaption",
      {},
      element("span", { class: "of" }, `${bytes(held)} of ${bytes(ceiling)}`, element("span", { class: "dim" }, `, usable ${bytes(usable)}${split ? `; ${split}` : ""}`)),
      element("ul", { class: "legend" }, shares.map(([part, size]) => element("li", { title: terms[part] }, element("i", { class: `part ${part}`, "aria-hidden": "true" }), `${part} `, element("b", {}, bytes(size))))),
    ),
  );
}

function piece(classes, share, title) {
  const made = element("span", { class: classes, title });
  made.style.width = `${100 * share}%`;
  return made;
}

function line(classes, share, title) {
  const made = element("span", { class: `line ${classes}`, title });
  made.style.left = `${Math.min(100, 100 * share)}%`;
  return made;
}
