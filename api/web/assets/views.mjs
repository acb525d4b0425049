// From what is chosen to what a tile is asked for: the `view=` of each window.

import * as api from "./api.mjs";
import { current } from "./catalogue.mjs";
import { barren, similarityView } from "./likeness.mjs";
import { state } from "./state.mjs";

const query = (view, more = {}) => new URLSearchParams({ view, ...more }).toString();
const alone = () => !state.bands.includes(",");
export const oneNumber = () => state.view !== "pca" && (state.view !== "bands" || alone());

// How it looks, as far as one said so.
function look() {
  const said = {};
  if (state.gamma) said.gamma = (2 ** state.gamma).toFixed(2);
  if (state.colormap && oneNumber()) said.colormap = state.colormap;
  return said;
}

// More contrast is a narrower stretch around the same middle: that of the view as it is by itself.
const ranges = new Map();
async function stretched(window, view) {
  const plain = query(view, look());
  if (!state.contrast) return plain;
  const key = `${current().id}/${window}?${view}`;
  if (!ranges.has(key)) ranges.set(key, api.legend(current().id, window, query(view)).then((legend) => legend.stretch));
  const spans = await ranges.get(key).catch((error) => { ranges.delete(key); throw error; });
  const asked = new URLSearchParams(plain);
  for (const [low, high] of spans) {
    const [middle, half] = [(low + high) / 2, (high - low) / 2 / 2 ** state.contrast];
    asked.append("stretch", [middle - half, middle + half].map((end) => Number(end.toPrecision(6))).join(","));
  }
  return asked.toString();
}

// Rejects where the server refuses to make the view; null where there is nothing to show yet.
export async function viewOf(window) {
  const dataset = current();
  if (state.view === "similarity") {
    if (window === state.window && barren()) return null;
    const view = await similarityView(window);
    return view && query(view, { threshold: state.threshold, clip: true, ...look() });
  }
  if (state.view === "change") {
    // Land seldom changes by more than half: there the ramp ends, unless one asks for more than that.
    const top = state.least < 0.45 ? 0.5 : 1;
    return state.other ? query(`change:${state.other}`, { threshold: state.least, top, clip: state.least > 0, ...look() }) : null;
  }
  if (state.view === "observations") {
    return query(`observations:${state.sensor}`, { ...(state.most ? { top: state.most } : {}), ...look() });
  }
  if (!dataset.bases.length) return null;
  if (state.view === "bands") return stretched(window, `bands:${state.bands}`);
  return stretched(window, state.basis === "default" ? "pca" : `pca:${state.basis}`);
}

// Below likeness and change lies the land itself, faint and grey, so that one sees where one is.
export function contextOf() {
  const wanted = (state.view === "similarity" || state.view === "change") && current().bases.length;
  return wanted ? query(state.basis === "default" ? "pca" : `pca:${state.basis}`) : null;
}
