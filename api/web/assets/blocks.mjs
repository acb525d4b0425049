// Squares of 2.56 km on the map: those that hold nothing yet, and those of a job, turning real one by one.

import * as api from "./api.mjs";
import { addLayer, night } from "./base.mjs";
import { can, current } from "./catalogue.mjs";
import { debounce, el, show, $ } from "./dom.mjs";
import { Marker, map, seen } from "./map.mjs";
import { on, state } from "./state.mjs";

const LEAST_ZOOM = 9.5; // from there on a square is large enough to be told from its neighbours
const WAIT_MS = 200;
const [LABELLED, LABEL_PX, ROOMY_PX] = [4, 130, 180]; // so many empty squares, so large on the screen, say that they can be filled
const DAY = { missing: "#5b6b68", queued: "#8a5a00", running: "#1b6864", done: "#1b6864", failed: "#b4532a", cancelled: "#5b6b68" };
const NIGHT = { missing: "#a3b3b0", queued: "#e6b95c", running: "#6ecbc3", done: "#6ecbc3", failed: "#f3a582", cancelled: "#a3b3b0" };
const FILL = { missing: 0.07, queued: 0.16, running: 0.34, done: 0, failed: 0.34, cancelled: 0.07 };
const WORDS = { missing: "nothing here yet", queued: "waiting", running: "being embedded", done: "done", failed: "failed", cancelled: "cancelled" };
const DASHED = ["missing", "queued", "cancelled"];

let empty = []; // features that hold nothing, as far as they are in view
let job = null; // { id, dataset, window, features: [...], states: Map }
let labels = [];
let turn = 0;
const listeners = [];
export const onVacant = (listener) => listeners.push(listener); // an empty square was chosen, by its middle

const of = (table) => ["match", ["get", "state"], ...Object.entries(table).flat(), table.missing];
const colours = () => of(night.matches ? NIGHT : DAY);
const here = () => job && job.dataset === state.dataset && job.window === state.window;

// What holds nothing in the part of the world that is seen; asked for where the dataset could fill it.
export function look() {
  debounce("missing", WAIT_MS, async () => {
    const mine = ++turn;
    const dataset = current();
    const asked = can(dataset) && map.getZoom() >= LEAST_ZOOM;
    const found = asked ? await api.missing(dataset.id, state.window, seen().join(",")).catch(() => null) : null;
    if (mine !== turn) return;
    empty = found?.features ?? [];
    render();
  });
}

function features() {
  const own = here() ? job.features.map((one) => ({ ...one, properties: { ...one.properties, state: job.states.get(one.properties.block) ?? "queued" } })) : [];
  const named = new Set(own.map(({ properties }) => properties.block));
  const rest = empty.filter(({ properties }) => !named.has(properties.block))
    .map((one) => ({ ...one, properties: { ...one.properties, state: one.properties.reason === "embedding" ? "queued" : "missing" } }));
  return [...rest, ...own.filter(({ properties }) => properties.state !== "done" || job.lit)];
}

export function render() {
  if (!map.isStyleLoaded() && !map.getSource("blocks")) { map.once("idle", render); return; }
  const shown = features();
  const data = { type: "FeatureCollection", features: shown };
  if (map.getSource("blocks")) map.getSource("blocks").setData(data);
  else if (shown.length) add(data);
  label(shown.filter(({ properties }) => properties.state === "missing"));
  key([...new Set(shown.map(({ properties }) => properties.state))]);
}

function add(data) {
  map.addSource("blocks", { type: "geojson", data });
  const dashed = ["in", ["get", "state"], ["literal", DASHED]];
  addLayer(map, { id: "blocks-fill", type: "fill", source: "blocks", paint: { "fill-color": colours(), "fill-opacity": of(FILL) } });
  addLayer(map, { id: "blocks-dash", type: "line", source: "blocks", filter: dashed, paint: { "line-color": colours(), "line-width": 1.5, "line-dasharray": [3, 2] } });
  addLayer(map, { id: "blocks-line", type: "line", source: "blocks", filter: ["!", dashed], paint: { "line-color": colours(), "line-width": 2 } });
  night.addEventListener("change", () => {
    map.setPaintProperty("blocks-fill", "fill-color", colours());
    for (const line of ["blocks-dash", "blocks-line"]) map.setPaintProperty(line, "line-color", colours());
    key([...new Set(features().map(({ properties }) => properties.state))]);
  });
}

const middleOf = ({ geometry }) => {
  const ring = geometry.coordinates[0].slice(0, 4);
  return [0, 1].map((axis) => Number((ring.reduce((sum, corner) => sum + corner[axis], 0) / 4).toFixed(6)));
};

function sizeOf({ geometry }) {
  const [a, , b] = geometry.coordinates[0].map((corner) => map.project(corner));
  return Math.min(Math.abs(a.x - b.x), Math.abs(a.y - b.y));
}

const lookedAt = ({ geometry }) => state.at.some((point) => [0, 1].every((axis) => {
  const ends = geometry.coordinates[0].map((corner) => corner[axis]);
  return Math.min(...ends) < point[axis] && point[axis] < Math.max(...ends);
}));

// A few large empty squares say what they are; many would cover the map.
function label(squares) {
  labels.forEach((made) => made.remove());
  const large = squares.length <= LABELLED ? squares.filter((square) => sizeOf(square) >= LABEL_PX && !lookedAt(square)) : [];
  labels = large.map((square) => {
    const at = middleOf(square);
    const roomy = sizeOf(square) >= ROOMY_PX;
    const choose = (event) => { event.stopPropagation(); listeners.forEach((listener) => listener(at)); };
    const element = el("button", { type: "button", class: "vacant", onclick: choose },
      roomy ? el("b", { text: "Nothing here yet" }) : null, el("span", { text: roomy ? "Embed this square" : "Embed this" }));
    return new Marker({ element }).setLngLat(at).addTo(map);
  });
}

// What the squares mean, for those kinds that are on the map.
function key(kinds) {
  const order = Object.keys(WORDS).filter((kind) => kinds.includes(kind));
  $("squares").replaceChildren(...order.flatMap((kind) => [
    el("span", { class: `square ${kind}`, "aria-hidden": "true" }), el("span", { text: WORDS[kind] })]));
  show($("squares"), order.length > 0);
}

// Show the squares of a job; their outlines are asked for once.
export async function follow(told) {
  if (job?.id !== told.id) {
    job = { id: told.id, dataset: told.dataset, window: told.window, features: [], states: new Map(), lit: true };
    const mine = job;
    api.jobBlocks(told.id).then((found) => { if (job === mine) { job.features = found.features; render(); } }, () => {});
  }
  job.states = new Map((told.blocks ?? []).map(({ block, state: how }) => [block, how]));
  render();
}

export const outlines = (names) => (job?.features ?? []).filter(({ properties }) => names.has(properties.block));

export function leave() {
  job = null;
  look();
}

export function wire() {
  map.on("moveend", look);
  on(["at"], render);
}
