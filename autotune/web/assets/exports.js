/** The recommendation as files of the tools that people train with. */

import { getText, jobPath } from "./api.js";
import { element } from "./dom.js";

/** @param {{format: string, files: string[]}[]} formats */
export function exportsView(name, formats) {
  return formats.map(({ format, files }) => {
    const folder = `${name}-${format}`;
    const base = `${jobPath(name)}/exports/${encodeURIComponent(format)}`;
    return element(
      "section",
      { class: "export" },
      element("h3", {}, format, " ", element("a", { class: "button", href: base, download: "", "aria-label": `All files for ${format}, zip` }, "All files, zip")),
      element("ul", { class: "files", "aria-label": `Files for ${format}` }, files.map((file) => element("li", {}, element("a", { href: `${base}/${encodeURIComponent(file)}`, download: file }, file)))),
      files.includes("launch.sh") && command(`unzip ${folder}.zip && cd ${folder} && ./launch.sh train.py`),
      command(`autotune export ${name} --to ${format} --output DIR`),
      files.includes("launch.sh") && launch(`${base}/launch.sh`),
    );
  });
}

function command(words) {
  const canCopy = Boolean(navigator.clipboard);
  const copy = element("button", { type: "button", class: "small", "aria-label": `Copy: ${words}` }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(words);
    copy.textContent = "Copied";
  });
  return element("div", { class: "command" }, element("code", {}, words), canCopy && copy);
}

function launch(path) {
  const text = element("pre", { tabindex: "0", "aria-label": "launch.sh" });
  const fold = element("details", {}, element("summary", { "aria-label": `What launch.sh does, ${path.split("/").at(-2)}` }, "What launch.sh does"), text);
  fold.addEventListener("toggle", async () => {
    if (!fold.open || text.textContent) return;
    text.textContent = "…";
    text.textContent = await getText(path).catch((problem) => problem.message);
  });
  return fold;
}
