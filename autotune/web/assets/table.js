/** Tables that scroll inside their own box. */

import { element } from "./dom.js";

/**
 * @param {string} caption what the table is of
 * @param {(string|{text: string, number?: boolean, unseen?: boolean, rest?: boolean})[]} headings `unseen`: for screen readers alone
 * @param {HTMLElement[]} rows
 * @param {{shown?: boolean, stacks?: boolean}} [options] `shown`: the caption is for everybody, not for screen readers
 *   alone; `stacks`: on a narrow screen cells of class `rest` stand below the others
 */
export function table(caption, headings, rows, { shown = false, stacks = false } = {}) {
  const cells = headings.map((heading) => {
    const { text, number, unseen, rest } = typeof heading === "string" ? { text: heading } : heading;
    return element("th", { scope: "col", class: [number && "number", rest && "rest"].filter(Boolean).join(" ") || null }, unseen ? element("span", { class: "unseen" }, text) : text);
  });
  const made = element(
    "div",
    { class: stacks ? "scrolls stacks" : "scrolls", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", { class: shown ? null : "unseen" }, caption),
      element("thead", {}, element("tr", {}, cells)),
      element("tbody", {}, rows),
    ),
  );
  if (stacks) keepRoles(made);
  return made;
}

const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell", "th[scope=col]": "columnheader", "th[scope=row]": "rowheader" };

/** A browser may take what is not laid out as a table for none. */
export function keepRoles(made) {
  for (const [selector, role] of Object.entries(ROLES)) {
    for (const part of [made, ...made.querySelectorAll(selector)]) if (part.matches(selector)) part.setAttribute("role", role);
  }
}

export const number = (text, properties = {}) => element("td", { ...properties, class: `number ${properties.class ?? ""}`.trim() }, text);

/** Two columns: what, and what of it. */
export function facts(pairs) {
  return element(
    "dl",
    { class: "pairs" },
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}
