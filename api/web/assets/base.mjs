// The ground under the tiles: land and sea of our own, so that an offline map is not a void; or a base map of the operator's choice.

import { escaped } from "./dom.mjs";

export const night = matchMedia("(prefers-color-scheme: dark)");
const DAY = { sea: "#dfe7e5", land: "#f3f0e7", coast: "#b9c4bf", grid: "#c9d3d0" };
const NIGHT = { sea: "#0e1716", land: "#1b2725", coast: "#3b4c49", grid: "#263533" };
const palette = () => (night.matches ? NIGHT : DAY);
const ORDER = ["sea", "land", "coast", "basemap", "grid", "context", "tiles", "blocks-fill", "blocks-dash", "blocks-line", "area-fill"]; // from below

// At first there is sea alone: the first tile waits for nothing that can come later.
export const style = () => ({
  version: 8, sources: {}, layers: [{ id: "sea", type: "background", paint: { "background-color": palette().sea } }],
});

// Layers come when their data do, each into its own place.
export function addLayer(map, layer) {
  map.addLayer(layer, ORDER.slice(ORDER.indexOf(layer.id) + 1).find((id) => map.getLayer(id)));
}

// A megabyte that nobody waits for: called once the data are on the map.
export function addLand(map) {
  if (map.getSource("land")) return;
  map.addSource("land", { type: "geojson", data: "/web/vendor/land.geojson", maxzoom: 9, attribution: "Land: Natural Earth" });
  addLayer(map, { id: "land", type: "fill", source: "land", paint: { "fill-color": palette().land } });
  addLayer(map, { id: "coast", type: "line", source: "land", paint: { "line-color": palette().coast, "line-width": 1 } });
}

export function addBasemap(map, { url, attribution }) {
  map.addSource("basemap", { type: "raster", tiles: [url], tileSize: 256, attribution: escaped(attribution) });
  addLayer(map, { id: "basemap", type: "raster", source: "basemap" });
}

export function addGrid(map, data) {
  map.addSource("grid", { type: "geojson", data });
  addLayer(map, { id: "grid", type: "line", source: "grid", paint: { "line-color": palette().grid, "line-width": 1 } });
}

export function followTheme(map) {
  const put = (layer, property, value) => map.getLayer(layer) && map.setPaintProperty(layer, property, value);
  night.addEventListener("change", () => {
    put("sea", "background-color", palette().sea);
    put("grid", "line-color", palette().grid);
    put("land", "fill-color", palette().land);
    put("coast", "line-color", palette().coast);
  });
}
