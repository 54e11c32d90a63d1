/** The end of the running probe's log, asked for only while somebody looks and something runs. */

import { getText, jobPath } from "./api.js";

const PAUSE_MS = 2000;

/** @param {HTMLDetailsElement} fold @param {() => boolean} isRunning */
export function followLog(fold, name, isRunning) {
  const text = fold.querySelector("pre");
  let timer = 0;

  async function look() {
    clearTimeout(timer);
    if (!fold.open) return;
    const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
    const found = isRunning() ? await getText(`${jobPath(name)}/log`).catch((problem) => problem.message) : "";
    text.textContent = found || (isRunning() ? "The probe has said nothing yet." : text.textContent || "No probe is running.");
    if (isAtEnd) text.scrollTop = text.scrollHeight;
    timer = setTimeout(look, PAUSE_MS);
  }

  fold.addEventListener("toggle", look);
}
