/** Tokens/s over peak memory: what is forecast, what was measured, what lies beyond the ceiling. */

import { firstOf, outcomeOf, peakOf, speedOf } from "./trial.js";
import { bytes, chips, count, describe, figure, interval, spoken } from "./words.js";

const GIB = 2 ** 30;
/** Outcome → how it is drawn. */
const MARKS = {
  measured: { colour: "--measured", symbol: "circle", size: 11 },
  outpaced: { colour: "--outpaced", symbol: "triangle-down", size: 11 },
  out_of_memory: { colour: "--out-of-memory", symbol: "x-thin", size: 11 },
};
/** Share of what is usable that all peaks stay under, for the range to end with them. */
const SHORT = 0.6;
const FRONTS = ["--front", "--front-2", "--front-3", "--front-4"];

/** What speaks for one configuration rather than another, as a key. */
const key = (config) => JSON.stringify(Object.entries(config).sort());

/**
 * @param {HTMLElement} place
 * @param {{job: any, trials: any[], candidates: any[], best: any, baseline: any}} state `best` and `baseline`: trials
 */
export function drawChart(place, state) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const { job, trials, candidates } = state;
  const inMiB = job.ceiling_bytes < 4 * GIB;
  const unit = inMiB ? 2 ** 20 : GIB;
  const ceiling = job.ceiling_bytes / unit;
  const usable = job.usable_bytes / unit;
  const forecasts = new Map(candidates.map((each) => [key(each.config), each]));
  const tried = new Set(trials.map((trial) => key(trial.config)));
  const untried = candidates.filter((each) => !tried.has(key(each.config)));

  const points = Object.entries(MARKS).map(([outcome, mark]) => {
    const those = trials.filter((trial) => outcomeOf(trial) === outcome).map((trial) => standing(trial, forecasts, job)).filter(Boolean);
    return pointsOf(outcome, mark, those, unit, colour);
  });
  const fitting = trials.filter((trial) => speedOf(trial) && peakOf(trial) && peakOf(trial) <= job.usable_bytes);
  const traces = [hollow(untried, unit, colour), ...fronts(fitting, unit, colour), ...points, ring(state.best, unit, colour)].filter((trace) => trace?.x.length);
  const reach = range(traces, ceiling, usable);

  const layout = {
    autosize: true,
    height: 430,
    margin: { l: 64, r: 14, t: 30, b: 50 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--dim") },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: -0.17, font: { size: 12.5 }, itemclick: false, itemdoubleclick: false },
    hoverlabel: { align: "left", bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text"), size: 12.5 } },
    hovermode: "closest",
    uirevision: "kept",
    xaxis: { ...axis(`peak memory of the worst rank, ${inMiB ? "MiB" : "GiB"}`, reach.x, colour), tickformat: "," },
    yaxis: { ...axis("", reach.y, colour), tickformat: reach.y[1] > 50 ? ",.0f" : "" },
    shapes: [
      band(usable, ceiling, colour("--near-ceiling")),
      band(ceiling, reach.x[1], colour("--over-ceiling")),
      upright(usable, colour("--usable"), "dot"),
      upright(ceiling, colour("--bad"), "dash"),
    ],
    annotations: [
      { x: 0, y: 1, xref: "paper", yref: "paper", xanchor: "right", yanchor: "bottom", text: "tokens/s", showarrow: false, yshift: 8 },
      { ...besideCeiling(ceiling, reach), y: 1, yref: "paper", yanchor: "bottom", text: `ceiling ${bytes(job.ceiling_bytes)}${reach.isShort ? " →" : ""}`, showarrow: false, yshift: 4, font: { color: colour("--bad") } },
      ...named(state, unit, colour),
    ],
  };
  window.Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
  place.setAttribute("aria-label", inWords(state, trials));
}

/** Where a trial stands: what ran out of memory where it was last seen, else on the ceiling, as high as its forecast. */
function standing(trial, forecasts, job) {
  if (trial.outcome === "out_of_memory") {
    const forecast = forecasts.get(key(trial.config));
    return { trial, bytes: peakOf(trial) ?? job.ceiling_bytes, speed: forecast?.tokens_per_second ?? 0, forecast };
  }
  if (!speedOf(trial) || !peakOf(trial)) return null;
  return { trial, bytes: peakOf(trial), speed: speedOf(trial).median };
}

function pointsOf(outcome, { colour: name, symbol, size }, those, unit, colour) {
  const bars = those.map(({ trial }) => speedOf(trial));
  const isThin = symbol.endsWith("-thin");
  return {
    name: spoken(outcome),
    type: "scatter",
    mode: "markers",
    x: those.map((each) => each.bytes / unit),
    y: those.map((each) => each.speed),
    error_y: outcome === "measured" && {
      type: "data",
      symmetric: false,
      array: bars.map((speed) => speed.high - speed.median),
      arrayminus: bars.map((speed) => speed.median - speed.low),
      color: colour(name),
      thickness: 1.5,
      width: 3,
    },
    marker: { size, symbol, color: colour(name), line: { width: isThin ? 3 : 1, color: isThin ? colour(name) : colour("--card") } },
    text: those.map(hover),
    hovertemplate: "%{text}<extra></extra>",
  };
}

function hover({ trial, forecast }) {
  const [speed, first] = [speedOf(trial), firstOf(trial)];
  const figures = speed
    ? [`${figure(speed.median)} tokens/s (${interval(speed)})`, first && `first probe ${figure(first.median)}`, `peak ${bytes(peakOf(trial))}`]
    : [spoken(trial.outcome), forecast ? `forecast ${figure(forecast.tokens_per_second)} tokens/s in ${bytes(forecast.peak_bytes)}` : ""];
  return [`<b>trial ${trial.number}</b>`, ...figures, ...wrapped(trial.config)].filter(Boolean).join("<br>");
}

/** Plotly reads some markup in texts; a configuration has none, being words and numbers of ours. */
function wrapped(config) {
  const words = chips(config);
  return Array.from({ length: Math.ceil(words.length / 4) }, (_, row) => words.slice(4 * row, 4 * row + 4).join(" · "));
}

function hollow(candidates, unit, colour) {
  return {
    name: "forecast",
    type: "scatter",
    mode: "markers",
    x: candidates.map((each) => each.peak_bytes / unit),
    y: candidates.map((each) => each.tokens_per_second),
    marker: { size: 7, symbol: "circle-open", color: colour("--forecast"), line: { width: 1.2 } },
    text: candidates.map((each) => ["<b>forecast</b>", `${figure(each.tokens_per_second)} tokens/s in ${bytes(each.peak_bytes)}`, ...wrapped(each.config)].join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
  };
}

/** For each sequence length, between which tokens/s do not compare, those that none other beats in both. */
function fronts(fitting, unit, colour) {
  const lengths = [...new Set(fitting.map((trial) => trial.config.sequence_length))].sort((a, b) => a - b);
  return lengths.map((length, index) => {
    const front = frontOf(fitting.filter((trial) => trial.config.sequence_length === length));
    return {
      name: lengths.length > 1 ? `front, length ${count(length)}` : "front",
      type: "scatter",
      mode: "lines",
      x: front.map((trial) => peakOf(trial) / unit),
      y: front.map((trial) => speedOf(trial).median),
      line: { color: colour(FRONTS[index % FRONTS.length]), dash: "dot", width: 2 },
      hoverinfo: "skip",
    };
  });
}

function frontOf(trials) {
  const speed = (trial) => speedOf(trial).median;
  const leanest = trials.toSorted((a, b) => peakOf(a) - peakOf(b) || speed(b) - speed(a));
  const front = [];
  for (const trial of leanest) if (!front.length || speed(trial) > speed(front.at(-1))) front.push(trial);
  return front;
}

function ring(best, unit, colour) {
  if (!best || !speedOf(best)) return null;
  return {
    type: "scatter",
    mode: "markers",
    showlegend: false,
    hoverinfo: "skip",
    x: [peakOf(best) / unit],
    y: [speedOf(best).median],
    marker: { size: 21, symbol: "circle-open", color: colour("--good"), line: { width: 2.5 } },
  };
}

function named({ job, best, baseline }, unit, colour) {
  const label = (trial, text, ay, name) =>
    trial && speedOf(trial) && peakOf(trial)
      ? [{ x: peakOf(trial) / unit, y: speedOf(trial).median, text, showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: colour(name), ax: 0, ay, font: { color: colour(name) } }]
      : [];
  const word = job.status === "finished" ? "recommended" : "best so far";
  if (best && baseline && best.number === baseline.number) return label(best, `${word}, the baseline`, -32, "--good");
  return [...label(best, `${word} · trial ${best?.number}`, -32, "--good"), ...label(baseline, "baseline", 34, "--dim")];
}

/** Where the ceiling's name stands: at it, on the side where there is room, or at the edge beyond which it lies. */
function besideCeiling(ceiling, { x: [left, right], isShort }) {
  if (isShort) return { x: 1, xref: "paper", xanchor: "right" };
  return { x: ceiling, xanchor: ceiling > left + 0.7 * (right - left) ? "right" : "left" };
}

/**
 * All that fits or was measured is in sight; of what is far beyond the ceiling, what lies near it. The ceiling itself
 * is left out, and the range short of it, where it is so far away that all else would be one heap.
 */
function range(traces, ceiling, usable) {
  const seen = traces.flatMap((trace) => trace.x.map((x, index) => [x, trace.y[index]])).filter(([x]) => x <= 1.25 * ceiling);
  const xs = seen.map(([x]) => x);
  const ys = seen.map(([, y]) => y);
  const isShort = xs.length > 0 && Math.max(...xs) < SHORT * usable;
  const left = Math.min(...xs, isShort ? Infinity : usable * 0.9);
  const right = Math.max(...xs, isShort ? left * 1.05 : ceiling * 1.05);
  const low = Math.min(...ys, Infinity);
  const high = Math.max(...ys, 0) || 1;
  const bottom = low > 0.5 * high ? low - 0.25 * (high - low) - 0.02 * high : 0;
  return { isShort, x: [left - 0.06 * (right - left), right + 0.03 * (right - left)], y: [bottom - 0.03 * (high - bottom), high + 0.14 * (high - bottom)] };
}

function axis(title, range, colour) {
  return { title: { text: title, standoff: 10, font: { size: 13 } }, range, gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, ticks: "outside", ticklen: 4, tickcolor: "transparent", tickfont: { size: 12 } };
}

function band(from, to, fillcolor) {
  return { type: "rect", layer: "below", xref: "x", yref: "paper", x0: from, x1: Math.max(from, to), y0: 0, y1: 1, fillcolor, line: { width: 0 } };
}

function upright(x, color, dash) {
  return { type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, dash, width: 1.5 } };
}

function inWords({ job, best }, trials) {
  const measured = trials.filter(speedOf).length;
  const fastest = best && speedOf(best) ? ` The best, trial ${best.number}, makes ${figure(speedOf(best).median)} tokens/s in ${bytes(peakOf(best))}: ${describe(best.config)}.` : "";
  return `Tokens per second over peak memory of ${measured} measured configurations under a ceiling of ${bytes(job.ceiling_bytes)}.${fastest}`;
}
