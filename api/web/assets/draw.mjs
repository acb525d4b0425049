// Draws one polygon by hand: a click or Space sets a corner, a double click, Enter or the first corner closes it.

import { $ } from "./dom.mjs";
import { guide } from "./guide.mjs";
import { area } from "./layers.mjs";
import { map, maps, middle, narrow } from "./map.mjs";
import { polygon, unrolled } from "./ring.mjs";
import { set, state } from "./state.mjs";

const CLOSE = 14; // pixels from the first corner that count as on it
const MOST = 1000; // corners the server takes
let corners = null;
let purpose = null; // { words, done }: what the area is for, where it is not for the search
let held = []; // the area that an estimate is made for

export const drawing = () => corners !== null;
const feature = (geometry) => ({ type: "Feature", properties: {}, geometry });
const distance = (a, b) => { const [p, q] = [map.project(a), map.project(b)]; return Math.hypot(p.x - q.x, p.y - q.y); };

// What is chosen, or what is being drawn with a line to the pointer.
export function render(pointer = null) {
  for (const shown of maps()) area(shown, shapes(pointer));
}

function shapes(pointer) {
  if (!drawing()) return [unrolled(state.area), held].filter((ring) => ring.length > 2).map((ring) => feature(polygon(ring)));
  const path = unrolled(pointer ? [...corners, pointer] : corners);
  const out = corners.map((at) => feature({ type: "Point", coordinates: at }));
  if (path.length > 1) out.push(feature({ type: "LineString", coordinates: path }));
  if (path.length > 2) out.push(feature(polygon(path)));
  return out;
}

function tell() {
  const closing = narrow.matches ? `${corners.length} corners` : "Double-click or press Enter to close it.";
  const words = corners.length < 3 ? (purpose?.words ?? "Set the corners of an area.") : closing;
  const finish = corners.length > 2 ? [["Finish", close]] : [];
  const undo = corners.length ? [["Undo", undoCorner]] : [];
  guide("draw", words, [...finish, ...undo, ["Cancel", cancel]]);
}

export function start(meant = null) {
  corners = [];
  purpose = meant;
  map.doubleClickZoom.disable();
  map.getCanvas().classList.add("drawing");
  $(purpose ? "make-draw" : "draw").setAttribute("aria-pressed", "true");
  tell();
  render();
}

function stop() {
  corners = null;
  map.getCanvas().classList.remove("drawing");
  for (const id of ["draw", "make-draw"]) $(id).setAttribute("aria-pressed", "false");
  guide("draw", null);
  setTimeout(() => map.doubleClickZoom.enable(), 300); // the double click that closed it is not a zoom
}

export function cancel() {
  stop();
  render();
}

export function close() {
  if (corners.length < 3) return;
  const ring = corners.map((corner) => corner.map((n) => Number(n.toFixed(6))));
  stop();
  purpose ? purpose.done(ring) : set({ area: ring });
  render();
}

// An area that is not for the search, shown until something else is.
export function hold(ring) {
  held = ring;
  render();
}

export function undoCorner() {
  corners.pop();
  tell();
  render();
}

export function corner(at = map.unproject(middle()).wrap().toArray()) {
  const last = corners.at(-1);
  if (corners.length > 2 && distance(corners[0], at) < CLOSE) { close(); return; }
  if (last && distance(last, at) < 3) return; // the second click of a double click
  if (corners.length < MOST) corners.push(at);
  tell();
  render();
}

export function wire() {
  $("draw").addEventListener("click", () => (drawing() ? cancel() : start()));
  map.on("mousemove", ({ lngLat }) => { if (drawing() && corners.length) render(lngLat.toArray()); });
  map.on("dblclick", () => { if (drawing()) close(); });
}
