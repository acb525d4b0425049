// From what is chosen to what a tile is asked for: the `view=` of each window.

import { current } from "./catalogue.mjs";
import { barren, similarityView } from "./likeness.mjs";
import { state } from "./state.mjs";

const query = (view, more = {}) => new URLSearchParams({ view, ...more }).toString();

// Rejects where the server refuses to make the view; null where there is nothing to show yet.
export async function viewOf(window) {
  const dataset = current();
  if (state.view === "similarity") {
    if (window === state.window && barren()) return null;
    const view = await similarityView(window);
    return view && query(view, { threshold: state.threshold, clip: true });
  }
  if (state.view === "change") {
    // Land seldom changes by more than half: there the ramp ends, unless one asks for more than that.
    const top = state.least < 0.45 ? 0.5 : 1;
    return state.other ? query(`change:${state.other}`, { threshold: state.least, top, clip: state.least > 0 }) : null;
  }
  if (!dataset.bases.length) return null;
  if (state.view === "bands") return query(`bands:${state.bands}`);
  return query(state.basis === "default" ? "pca" : `pca:${state.basis}`);
}

// Below likeness and change lies the land itself, faint and grey, so that one sees where one is.
export function contextOf() {
  const wanted = (state.view === "similarity" || state.view === "change") && current().bases.length;
  return wanted ? query(state.basis === "default" ? "pca" : `pca:${state.basis}`) : null;
}
