// Draws the chosen view, and the area that was drawn, into a map.

import * as api from "./api.mjs";
import { addLayer } from "./base.mjs";
import { can, current, holds } from "./catalogue.mjs";
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
  const [view, error] = !holds(window) ? [null, null] : await viewOf(window).then((made) => [made, null], (refused) => [null, refused]);
  if (turns.get(map) !== turn) return;
  trouble("view", error);
  const context = view && contextOf();
  raster(map, "context", dataset, context && api.tiles(dataset.id, window, context), GREY);
  raster(map, "tiles", dataset, view && api.tiles(dataset.id, window, view), { "raster-opacity": state.opacity / 100 });
}

function raster(map, id, dataset, url, look) {
  const source = map.getSource(id);
  const bounds = reach(dataset);
  const frame = JSON.stringify([dataset.id, bounds, dataset.maxzoom]);
  if (source && (!url || source.frame !== frame)) {
    map.removeLayer(id);
    map.removeSource(id);
  }
  if (!url) return;
  if (!map.getSource(id)) {
    map.addSource(id, { type: "raster", tiles: [url], tileSize: 256, bounds: bounds ?? undefined,
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

// Where tiles can ever show something: what a job adds must not make the map forget the tiles it has. A map source knows
// no box over the antimeridian.
function reach({ bounds, source_bounds: source, ...dataset }) {
  if (bounds && bounds[0] > bounds[2]) return undefined;
  if (!can(dataset) || !bounds) return bounds;
  if (!source || source[0] > source[2]) return undefined;
  return [0, 1].map((axis) => Math.min(bounds[axis], source[axis])).concat([2, 3].map((axis) => Math.max(bounds[axis], source[axis])));
}

// Only the tiles that show some of these squares, at the zooms that may be on the screen.
export function refreshWhere(map, squares) {
  const middle = Math.floor(map.getZoom()) + 1;
  const tiles = [];
  const zooms = [-2, -1, 0, 1].map((step) => Math.min(Math.max(0, middle + step), current()?.maxzoom ?? 0));
  for (const z of new Set(zooms)) {
    for (const { geometry } of squares) tiles.push(...tilesOf(geometry.coordinates[0], z));
  }
  const unique = [...new Map(tiles.map((tile) => [`${tile.z}/${tile.x}/${tile.y}`, tile])).values()];
  for (const id of ["context", "tiles"]) if (map.getSource(id)) map.refreshTiles(id, unique);
}

function tilesOf(ring, z) {
  const [lon, lat] = [0, 1].map((axis) => ring.map((corner) => corner[axis]));
  const side = 2 ** z;
  const column = (degrees) => Math.floor(((degrees + 180) / 360) * side);
  const row = (degrees) => Math.floor(((1 - Math.asinh(Math.tan((degrees * Math.PI) / 180)) / Math.PI) / 2) * side);
  const out = [];
  for (let x = column(Math.min(...lon)); x <= column(Math.max(...lon)); x++) {
    for (let y = row(Math.max(...lat)); y <= row(Math.min(...lat)); y++) out.push({ z, x, y });
  }
  return out;
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
