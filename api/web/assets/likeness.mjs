// Likeness: examples for and against, the search they make, and the layer that shows it. No document here.

import * as api from "./api.mjs";
import { current } from "./catalogue.mjs";
import { geometry, unrolled } from "./ring.mjs";
import { on, set, state } from "./state.mjs";

const EARTH_KM = 6371.0088;
const radians = (degrees) => (degrees * Math.PI) / 180;

export const limits = { hits: 1000 }; // the server's own, once it has told
export const found = { state: "none", hits: [], error: null, answer: null };
const listeners = [];
export const onFound = (listener) => listeners.push(listener);
const tell = (changes) => { Object.assign(found, changes); listeners.forEach((listener) => listener(found)); };

// Examples that are vectors, from a time series or a link: they live under an id on the server, or, where saving is
// refused, only here.
export const uploaded = { id: "", vectors: [], against: [], model: "", linked: false };
const UNSAVED = "unsaved";
export async function giveVectors(vectors, model) {
  const id = await api.saveQuery({ vectors, model }).then((saved) => saved.id, () => UNSAVED);
  Object.assign(uploaded, { vectors, against: [], model, id, linked: false });
  set({ query: id, like: [], unlike: [], area: [], at: [], view: "similarity" });
}

export async function recall() {
  const id = state.query;
  if (!id || uploaded.id === id) return;
  if (id === UNSAVED) throw new api.Refusal(0, { detail: "The uploaded series of this link was not saved.", remedy: "Upload it again." });
  const saved = await api.query(id);
  if (state.query !== id) return;
  Object.assign(uploaded, { id, vectors: saved.wanted, against: saved.unwanted, model: saved.model, linked: true });
  if (state.metric === "cosine" && saved.metric !== "cosine") set({ metric: saved.metric }); // as it was asked
}

// The examples hold no vector here: then there is nothing to colour the map by, in any tile.
export const barren = () => found.state === "refused" && found.error.status === 404;

const drawn = (use) => state.area.length > 2 && state.use === use;
const averaged = () => drawn("example");
export const asks = () => state.like.length > 0 || averaged() || Boolean(state.query);

// Only what is said: an older server refuses members it does not know.
export function examples() {
  const body = { points: state.like };
  if (state.unlike.length) body.against = state.unlike;
  if (averaged()) body.polygons = [geometry(state.area)];
  if (drawn("counter")) body.against_polygons = [geometry(state.area)];
  if (state.query) Object.assign(body, { vectors: uploaded.vectors, model: uploaded.model });
  if (state.query && uploaded.against.length) body.against_vectors = uploaded.against;
  if (state.metric !== "cosine") body.metric = state.metric;
  return body;
}

const views = new Map();
// What `view=` of a window's tiles takes. One example is its own name; more are saved first.
export async function similarityView(window) {
  if (!asks()) return null;
  const { points, ...more } = examples();
  if (points.length === 1 && !Object.keys(more).length) {
    return `similarity:${state.like[0].map((n) => Number(n.toFixed(6))).join(",")}`;
  }
  await recall();
  const body = { ...examples(), dataset: state.dataset, window };
  const key = JSON.stringify(body);
  if (!views.has(key)) {
    views.set(key, named(body));
    views.get(key).catch(() => views.delete(key));
  }
  return views.get(key);
}

async function named({ dataset, window, ...body }) {
  try {
    return (await api.saveQuery({ ...body, dataset, window })).view;
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) throw error;
    // Who shared this link may have saved it: the same examples always have the same id.
    const answer = await api.search(dataset, window, { ...body, k: 1 });
    if (answer.saved) return `similarity:${answer.query}`;
    error.message = `The hits are right, but the map cannot be coloured by several examples: they would have to be saved. ${error.message}`;
    throw error;
  }
}

export function kilometres([lon1, lat1], [lon2, lat2]) {
  const half = (a, b) => Math.sin(radians(b - a) / 2) ** 2;
  const h = half(lat1, lat2) + Math.cos(radians(lat1)) * Math.cos(radians(lat2)) * half(lon1, lon2);
  return 2 * EARTH_KM * Math.asin(Math.sqrt(h));
}

// Where distances are measured from: the first example, or the middle of the averaged area; an upload lies nowhere.
export function origin() {
  if (state.like.length) return state.like[0];
  if (!averaged()) return null;
  return [0, 1].map((axis) => unrolled(state.area).reduce((sum, corner) => sum + corner[axis], 0) / state.area.length);
}

const placed = ({ geometry: { coordinates: at }, properties: { score, rank } }) =>
  ({ at, score, rank, km: origin() && kilometres(origin(), at) });

let running = null;
export async function search() {
  running?.abort();
  if (!current() || !asks()) { tell({ state: "none", hits: [], error: null, answer: null }); return; }
  const mine = (running = new AbortController());
  tell({ state: "searching", error: null });
  try {
    await recall();
    const body = { ...examples(), k: Math.min(limits.hits, state.k), exclude_examples: true };
    if (state.apart) body.spacing = state.apart;
    if (state.exact) body.exact = true;
    if (drawn("within")) body.within = geometry(state.area);
    const answer = await api.search(state.dataset, state.window, body, mine.signal);
    if (mine.signal.aborted) return;
    tell({ state: "found", answer, hits: answer.features.map(placed) });
  } catch (error) {
    if (!mine.signal.aborted) tell({ state: "refused", hits: [], error, answer: null });
  }
}

export const watchLikeness = () => on(["dataset", "window", "like", "unlike", "area", "use", "query", "metric", "k", "apart", "exact"], search);

// A click: a new question, or one more example.
export function ask(point, mode) {
  const at = point.map((n) => Number(n.toFixed(6)));
  const more = (list) => [...list.filter((other) => other.join() !== at.join()), at];
  if (mode === "like" || mode === "unlike") set({ [mode]: more(state[mode]), view: "similarity" });
  else set({ like: [at], unlike: [], query: "", use: "within", view: "similarity" });
}

export const clear = () => set({ like: [], unlike: [], area: [], query: "", at: [], view: state.view === "similarity" ? "pca" : state.view });
