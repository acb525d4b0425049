// Draws the chosen view, and the area that was drawn, into a map.

import * as api from "./api.mjs";
import { addLayer } from "./base.mjs";
import { current } from "./catalogue.mjs";
import { escaped } from "./dom.mjs";
import { state } from "./state.mjs";
import { trouble } from "./status.mjs";
import { contextOf, viewOf } from "./views.mjs";

const turns = new WeakMap();
const GREY = { "raster-saturation": -1, "raster-contrast": -0.35, "raster-opacity": 0.45 };
const empty = { type: "FeatureCollection", features: [] };

// Show one window of the chosen dataset. Of several calls the last one counts, whatever order answers come in.
export async function paint(map, window) {
  const turn = (turns.get(map) ?? 0) + 1;
  turns.set(map, turn);
  const dataset = current();
  if (!dataset) return;
  const [view, error] = await viewOf(window).then((made) => [made, null], (refused) => [null, refused]);
  if (turns.get(map) !== turn) return;
  trouble("view", error);
  const context = contextOf();
  raster(map, "context", dataset, context && api.tiles(dataset.id, window, context), GREY);
  raster(map, "tiles", dataset, view && api.tiles(dataset.id, window, view), { "raster-opacity": state.opacity / 100 });
}

function raster(map, id, dataset, url, look) {
  const source = map.getSource(id);
  const frame = JSON.stringify([dataset.id, dataset.bounds, dataset.maxzoom]);
  if (source && (!url || source.frame !== frame)) {
    map.removeLayer(id);
    map.removeSource(id);
  }
  if (!url) return;
  if (!map.getSource(id)) {
    map.addSource(id, { type: "raster", tiles: [url], tileSize: 256, bounds: dataset.bounds ?? undefined,
      maxzoom: dataset.maxzoom, attribution: escaped(dataset.attribution) });
    Object.assign(map.getSource(id), { frame, asked: url });
    // Pixels stay pixels: each is one 10 m tessera.
    addLayer(map, { id, type: "raster", source: id, paint: { "raster-resampling": "nearest", "raster-fade-duration": 0 } });
  } else if (source.asked !== url) { // its own `tiles` come a moment after it does
    source.asked = url;
    source.setTiles([url]);
  }
  for (const [property, value] of Object.entries(look)) map.setPaintProperty(id, property, value);
}

// New blocks: every visible tile is asked for again, and the server answers 304 for those that did not change.
export function refresh(map) {
  for (const id of ["context", "tiles"]) if (map.getSource(id)) map.refreshTiles(id);
}

export function area(map, features) {
  const source = map.getSource("area");
  if (source) { source.setData({ ...empty, features }); return; }
  if (!features.length) return;
  map.addSource("area", { type: "geojson", data: { ...empty, features } });
  const line = (id, colour, width, more = {}) => map.addLayer({ id, type: "line", source: "area",
    filter: ["!=", ["geometry-type"], "Point"], layout: { "line-join": "round" }, paint: { "line-color": colour, "line-width": width, ...more } });
  map.addLayer({ id: "area-fill", type: "fill", source: "area", filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": "#d9a441", "fill-opacity": 0.12 } });
  line("area-edge", "#17302e", 4.5, { "line-opacity": 0.75 });
  line("area-line", "#f0c15f", 2);
  map.addLayer({ id: "area-corners", type: "circle", source: "area", filter: ["==", ["geometry-type"], "Point"],
    paint: { "circle-radius": 5, "circle-color": "#f0c15f", "circle-stroke-color": "#17302e", "circle-stroke-width": 2 } });
}
