// How much of the drawn area is like the examples: every pixel of it counted, at the score below which the map hides.

import * as api from "./api.mjs";
import { current } from "./catalogue.mjs";
import { $, count, debounce, percent, show } from "./dom.mjs";
import { asks, examples, recall } from "./likeness.mjs";
import { geometry } from "./ring.mjs";
import { on, state } from "./state.mjs";

const WAIT_MS = 150; // while corners or the threshold move
const FOLLOWS = ["dataset", "window", "like", "unlike", "area", "use", "query", "metric", "threshold"];
let running = null;

function put(words) {
  $("measured").textContent = words;
  show($("measured"), words !== "");
}

const land = (hectares) => `${hectares.toLocaleString("en", { maximumFractionDigits: hectares < 10 ? 2 : 1 })} ha`;

function words({ valid, alike, hectares }) {
  if (!valid) return "Nothing embedded lies in this area.";
  const least = state.threshold.toFixed(2);
  return `In the area ${land(hectares)} (${percent(alike / valid)}) score ${least} or more: each of its ${count(valid, "pixel")} compared.`;
}

async function measure() {
  running?.abort();
  if (!current() || !asks() || state.area.length < 3) { put(""); return; }
  const mine = (running = new AbortController());
  try {
    await recall();
    const body = { ...examples(), areas: [geometry(state.area)], min_score: state.threshold };
    const answer = await api.measure(state.dataset, state.window, body, mine.signal);
    if (!mine.signal.aborted) put(words(answer.results[0]));
  } catch (error) {
    // What is wrong with the examples the search has said already.
    if (!mine.signal.aborted) put(error.status === 413 ? `${error.message} ${error.remedy}` : "");
  }
}

export const render = () => debounce("measure", WAIT_MS, measure);
export const wire = () => on(FOLLOWS, render);
