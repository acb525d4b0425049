// Meridians and parallels whose spacing follows the zoom. Labels are HTML: text inside the map would need glyph files.

import { addGrid } from "./base.mjs";
import { $, el } from "./dom.mjs";

const STEPS = [30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001];
const APART = 130; // pixels between lines, at least
const MOST = 85;

const step = (zoom) => STEPS.findLast((degrees) => (degrees / 360) * 512 * 2 ** zoom >= APART) ?? STEPS[0];
const name = (value, positive, negative, digits) =>
  `${Math.abs(value).toFixed(digits)}°${Math.abs(value) < 1e-9 ? "" : ` ${value < 0 ? negative : positive}`}`;

function values(from, to, by) {
  const first = Math.ceil(from / by);
  return Array.from({ length: Math.max(0, Math.floor(to / by) - first + 1) }, (_, i) => (first + i) * by);
}

function lines(map) {
  const by = step(map.getZoom());
  const box = map.getBounds();
  const [west, east] = [Math.max(-540, box.getWest() - by), Math.min(540, box.getEast() + by)];
  const [south, north] = [Math.max(-MOST, box.getSouth() - by), Math.min(MOST, box.getNorth() + by)];
  return { by, meridians: values(west, east, by), parallels: values(south, north, by), west, east, south, north };
}

function redraw(map) {
  const { meridians, parallels, west, east, south, north } = lines(map);
  const coordinates = [
    ...meridians.map((lon) => [[lon, south], [lon, north]]),
    ...parallels.map((lat) => [[west, lat], [east, lat]]),
  ];
  const data = { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates } };
  map.getSource("grid") ? map.getSource("grid").setData(data) : addGrid(map, data);
}

// Meridians are named along the top edge, parallels along the right one: the panel covers the others.
function label(map) {
  const { by, meridians, parallels } = lines(map);
  const digits = Math.max(0, Math.ceil(-Math.log10(by) - 1e-9));
  const { width, height } = map.getCanvas().getBoundingClientRect();
  const middle = map.getCenter();
  const covered = $("panel").getBoundingClientRect().right + 8;
  const labels = [];
  for (const lon of meridians) {
    const { x } = map.project([lon, middle.lat]);
    const around = ((lon + 540) % 360) - 180;
    if (x > covered && x < width - 120) labels.push(el("span", { style: `left:${x}px;top:4px`, text: name(around, "E", "W", digits) }));
  }
  for (const lat of parallels) {
    const { y } = map.project([middle.lng, lat]);
    if (y > 190 && y < height - 70) labels.push(el("span", { class: "parallel", style: `top:${y}px`, text: name(lat, "N", "S", digits) }));
  }
  $("grid-labels").replaceChildren(...labels);
}

export function addGraticule(map, labelled) {
  redraw(map);
  map.on("moveend", () => redraw(map));
  if (!labelled) return;
  label(map);
  map.on("move", () => label(map));
  map.on("resize", () => label(map));
}
