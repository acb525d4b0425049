// The page: what is chosen lives in one object and in the URL; everything shown follows from it.

import * as maplibre from "/web/vendor/maplibre-gl.mjs";
import * as api from "./api.mjs";
import { style } from "./base.mjs";

maplibre.setWorkerUrl("/web/vendor/maplibre-gl-worker.mjs");

const $ = (id) => document.getElementById(id);
const HITS = 12;
const LOOK_AGAIN_MS = 4000;
const STATUS = {
  valid: "embedded", water: "water", "not-embedded": "not embedded yet", rejected: "too few observations",
  outside: "outside this dataset",
};

const chosen = Object.fromEntries(new URLSearchParams(location.search));
chosen.view ??= "pca";
const placed = location.hash.includes("map=");  // before the map writes its own
let catalogue = [];
let shown = "";
let markers = [];

const map = new maplibre.Map({
  container: "map", style: style(), center: [0, 30], zoom: 1.2, hash: "map", attributionControl: false, maxZoom: 18,
});
map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
map.addControl(new maplibre.AttributionControl({ compact: false }));
map.addControl(new maplibre.ScaleControl(), "bottom-right");

const dataset = () => catalogue.find((d) => d.id === chosen.dataset);

function say(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? error.message ?? String(error) : "";
}

function remember() {
  const query = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
  history.replaceState(null, "", `?${query}${location.hash}`);
}

function fill(select, values, value) {
  select.replaceChildren(...values.map(([key, text]) => new Option(text, key, false, key === value)));
}

function choose(changes) {
  Object.assign(chosen, changes);
  const current = dataset();
  if (!current) return;
  if (!current.windows.includes(chosen.window)) chosen.window = current.windows.at(-1);
  fill($("dataset"), catalogue.map((d) => [d.id, d.title]), chosen.dataset);
  fill($("window"), current.windows.map((w) => [w, w]), chosen.window);
  $("view").querySelector("[value=similarity]").disabled = !chosen.query;
  $("view").value = chosen.view;
  $("opacity").value = chosen.opacity ?? 100;
  $("threshold").value = chosen.threshold ?? 0.5;
  $("threshold-row").hidden = chosen.view !== "similarity";
  $("provenance").textContent = `${current.model} · revision ${current.revision.slice(0, 8)}`;
  remember();
  draw(current);
}

function draw(current) {
  const view = viewQuery();
  const url = api.tiles(current.id, chosen.window, view, current.revision);
  if (url !== shown) {
    legend(current, view);
    if (map.getLayer("tiles")) map.removeLayer("tiles");
    if (map.getSource("tiles")) map.removeSource("tiles");
    map.addSource("tiles", {
      type: "raster", tiles: [url], tileSize: 256, bounds: current.bounds ?? undefined, maxzoom: current.maxzoom,
      attribution: current.attribution,
    });
    map.addLayer({ id: "tiles", type: "raster", source: "tiles",
      paint: { "raster-resampling": "nearest", "raster-fade-duration": 150 } });
    shown = url;
  }
  map.setPaintProperty("tiles", "raster-opacity", Number(chosen.opacity ?? 100) / 100);
}

function viewQuery() {
  if (chosen.view !== "similarity") return `view=${encodeURIComponent(chosen.view)}`;
  return `view=${encodeURIComponent(`similarity:${chosen.query}`)}&threshold=${chosen.threshold ?? 0.5}`;
}

const MEANING = {
  pca: "The three strongest directions of the vectors as red, green and blue: pixels of one colour behaved alike all year. Transparent: no data.",
  bands: "Three of the numbers as red, green and blue. Transparent: no data.",
};

async function legend(current, view) {
  if (MEANING[chosen.view]) { $("legend").textContent = MEANING[chosen.view]; return; }
  const { colours, range } = await api.legend(current.id, chosen.window, view).catch((error) => { say(error); return {}; });
  if (!colours) return;
  const ramp = Object.assign(document.createElement("div"), { className: "ramp" });
  ramp.style.background = `linear-gradient(to right, ${colours})`;
  const ends = Object.assign(document.createElement("div"), { className: "ends" });
  for (const text of [`${range[0].toFixed(2)} or less`, "cosine with the query", range[1].toFixed(2)]) {
    ends.append(Object.assign(document.createElement("span"), { textContent: text }));
  }
  $("legend").replaceChildren(ramp, ends);
}

async function look() {
  try {
    const { datasets, broken } = await api.datasets();
    catalogue = datasets.filter((d) => d.windows.length);
    const bad = Object.entries(broken).map(([id, why]) => `Dataset ${id} cannot be opened: ${why}`);
    say(bad.length ? new Error(bad.join(" ")) : null);
    $("empty").hidden = catalogue.length > 0;
    $("choices").hidden = catalogue.length === 0;
    const first = !dataset();
    if (catalogue.length) choose(first ? { dataset: catalogue[0].id } : {});
    if (first && dataset()?.bounds && !placed) frame(dataset().bounds);
  } catch (error) {
    say(new Error(`The server cannot be reached: ${error.message}`));
  }
}

function frame([west, south, east, north]) {
  const wide = innerWidth > 640;
  map.fitBounds([[west, south], [east, north]], {
    animate: false, padding: wide ? { left: 340, top: 40, right: 60, bottom: 40 } : { top: 20, bottom: innerHeight / 2, left: 20, right: 20 },
  });
}

function mark(point, className, title) {
  const element = Object.assign(document.createElement("div"), { className: `marker ${className}`, title });
  markers.push(new maplibre.Marker({ element }).setLngLat(point).addTo(map));
}

function inspect(point, result) {
  const { s2, s1_asc, s1_desc } = result.counts;
  const rows = [
    ["Place", `${point[1].toFixed(5)}, ${point[0].toFixed(5)}`],
    ["Status", STATUS[result.status] ?? result.status],
    ["Observations", `${s2} optical, ${s1_asc + s1_desc} radar`],
  ];
  const list = document.createElement("dl");
  for (const [term, text] of rows) {
    list.append(Object.assign(document.createElement("dt"), { textContent: term }),
      Object.assign(document.createElement("dd"), { textContent: text }));
  }
  $("inspector").replaceChildren(list);
}

function list(features) {
  $("hits").replaceChildren(...features.map(({ geometry, properties }) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const [lon, lat] = geometry.coordinates;
    const cell = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
    button.append(cell("rank", properties.rank), cell("", `${lat.toFixed(5)}, ${lon.toFixed(5)}`), cell("", properties.score.toFixed(4)));
    button.addEventListener("click", () => map.easeTo({ center: [lon, lat], zoom: Math.max(map.getZoom(), 15) }));
    item.append(button);
    return item;
  }));
}

async function ask({ lngLat }) {
  const current = dataset();
  if (!current) return;
  const point = [lngLat.lng, lngLat.lat];
  markers.forEach((marker) => marker.remove());
  markers = [];
  mark(point, "asked", "the pixel you asked about");
  list([]);
  say(null);
  $("inspector").textContent = "Looking …";
  try {
    const { results } = await api.vector(current.id, chosen.window, point);
    inspect(point, results[0]);
    if (results[0].status !== "valid") return;
    const [found, saved] = await Promise.all([
      api.search(current.id, chosen.window, point, HITS), api.saveQuery(current.id, chosen.window, point)]);
    list(found.features);
    found.features.slice(1).forEach(({ geometry, properties }) =>
      mark(geometry.coordinates, "", `rank ${properties.rank}, score ${properties.score.toFixed(4)}`));
    choose({ query: saved.id, view: "similarity" });
  } catch (error) {
    say(error);
  }
}

$("dataset").addEventListener("change", (e) => { choose({ dataset: e.target.value, view: "pca", query: "" }); frame(dataset().bounds); });
$("window").addEventListener("change", (e) => choose({ window: e.target.value }));
$("view").addEventListener("change", (e) => choose({ view: e.target.value }));
$("threshold").addEventListener("change", (e) => choose({ threshold: e.target.value }));
$("opacity").addEventListener("input", (e) => choose({ opacity: e.target.value }));
map.on("click", ask);
map.on("load", () => { look(); setInterval(look, LOOK_AGAIN_MS); });
