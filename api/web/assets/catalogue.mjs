// The datasets there are. Asked for again now and then, so that new blocks and new datasets show by themselves.

import * as api from "./api.mjs";
import { $, count, show } from "./dom.mjs";
import { set, state } from "./state.mjs";
import { trouble } from "./status.mjs";

export const lastYear = () => String(new Date().getFullYear() - 1);
const WINDOW = /^\d{4}$|^\d{4}-\d{2}-\d{2}\.\.\d{4}-\d{2}-\d{2}$/;
const LOOK_AGAIN_MS = 5000;
export const usualBasis = ({ bases }) => (bases.includes("default") ? "default" : bases[0]);
export const ID = /^[0-9a-f]{20}$/; // of a basis, which no name looks like
let datasets = [];
let turns = 0;
let newest = 0; // whose answer is shown: on a slow server an older one may come later
const listeners = [];

export const all = () => datasets;
export const current = () => datasets.find((dataset) => dataset.id === state.dataset);
export const can = (dataset) => Boolean(dataset?.writable && dataset.source); // embed what is missing
export const holds = (window = state.window) => Boolean(current()?.windows.includes(window));
// Called with (dataset, changed): `changed` tells that this dataset has new blocks since it was last seen.
export const onCatalogue = (listener) => listeners.push(listener);

export async function look() {
  const turn = ++turns;
  let answer;
  try {
    answer = await api.datasets();
  } catch (error) {
    trouble("server", error);
    return;
  }
  if (turn < newest) return;
  newest = turn;
  trouble("server", null);
  const broken = Object.entries(answer.broken ?? {});
  trouble("broken", broken.length ? { message: `${count(broken.length, "dataset")} cannot be opened: ${broken.map(([id, why]) => `${id} (${why})`).join("; ")}` } : null);
  const before = current();
  datasets = answer.datasets.filter((dataset) => dataset.windows.length || can(dataset));
  for (const id of ["choices", "find", "upload"]) show($(id), datasets.length > 0);
  show($("empty"), datasets.length === 0);
  if (!datasets.length) return;
  settle();
  const now = current();
  const key = (dataset) => JSON.stringify(dataset);
  if (key(before ?? null) !== key(now)) {
    const held = ({ revision, revisions, windows }) => JSON.stringify([revision, revisions, windows]); // a window may have a store of its own
    for (const listener of listeners) listener(now, before?.id === now.id && held(before) !== held(now));
  }
}

// What is chosen must exist; a link to what is gone says so and shows what there is.
function settle() {
  const asked = state.dataset;
  const dataset = current() ?? datasets[0];
  const changes = { dataset: dataset.id };
  if (asked && asked !== dataset.id) {
    trouble("choice", { message: `There is no dataset ${asked} here; this is ${dataset.id}.` });
    Object.assign(changes, fresh());
  }
  const meant = can(dataset) && WINDOW.test(state.window) && (state.make || !dataset.windows.length); // yet to be made
  if (!dataset.windows.includes(state.window) && !meant) {
    if (state.window && dataset.windows.length && (!asked || asked === dataset.id)) trouble("choice", { message: `${dataset.id} holds no window ${state.window}.` });
    changes.window = dataset.windows.at(-1) ?? lastYear();
  }
  const window = changes.window ?? state.window;
  if (dataset.windows.includes(window)) changes.make = "";
  if (!dataset.windows.includes(state.other) || state.other === window) {
    const at = dataset.windows.indexOf(window);
    changes.other = dataset.windows[at - 1] ?? dataset.windows[at + 1] ?? "";
  }
  if (!changes.other && !dataset.windows.includes(state.other)) {
    changes.swipe = 0;
    if (state.view === "change") changes.view = "pca";
  }
  if (state.bands.split(",").some((band) => band >= dataset.dims)) changes.bands = "0,1,2";
  if (state.view === "observations" && !dataset.views.includes("observations")) changes.view = "pca";
  // An id means the same for ever, listed or not.
  if (dataset.bases.length && !dataset.bases.includes(state.basis) && !(ID.test(state.basis) && (!asked || asked === dataset.id))) changes.basis = usualBasis(dataset);
  set(changes);
}

// Places and vectors of one dataset mean nothing in another.
const fresh = () => ({ like: [], unlike: [], area: [], query: "", at: [], basis: ID.test(state.basis) ? "default" : state.basis, view: state.view === "similarity" ? "pca" : state.view });

export function choose(dataset) {
  trouble("choice", null);
  set({ dataset, make: "", ...fresh() });
  settle();
}

export function chooseWindow(window) {
  trouble("choice", null);
  set({ window, make: holds(window) ? "" : "1", other: window === state.other ? state.window : state.other });
}

export function watch() {
  setInterval(() => document.visibilityState === "visible" && look(), LOOK_AGAIN_MS);
}
