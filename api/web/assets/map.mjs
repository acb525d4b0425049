// The map itself: where it looks, its controls, and what a pointer over it reads.

import * as maplibre from "/web/vendor/maplibre-gl.mjs";
import { headers, soon } from "./api.mjs";
import { followTheme, style } from "./base.mjs";
import { $, el, icon, place } from "./dom.mjs";
import { addGraticule } from "./graticule.mjs";
import { trouble } from "./status.mjs";

export const { Marker } = maplibre;
maplibre.setWorkerUrl("/web/vendor/maplibre-gl-worker.mjs");

const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const narrow = matchMedia("(max-width: 720px)");
export const placed = location.hash.includes("map="); // before the map writes its own

export function makeMap(container, more = {}) {
  return new maplibre.Map({
    container, style: style(), center: [0, 30], zoom: 1.2, maxZoom: 19, attributionControl: false, dragRotate: false,
    pitchWithRotate: false, touchPitch: false, fadeDuration: calm.matches ? 0 : 200,
    // Where reading needs a key, tiles need it as well.
    transformRequest: (url) => (url.startsWith(`${location.origin}/datasets/`) ? { url, headers: headers() } : { url }),
    ...more,
  });
}

function first() {
  try {
    return makeMap("map", { hash: "map", boxZoom: false }); // Shift + click adds an example
  } catch (error) {
    trouble("map", { message: "This browser cannot draw the map: it offers no WebGL 2.",
      remedy: "Switch on graphics acceleration in its settings, or use another browser. Tiles, search and uploads work without this page." });
    throw error;
  }
}

await soon;
export const map = first();
const drawn = [map];
export const maps = () => drawn; // the map, and the one beside it once there is one
map.touchZoomRotate.disableRotation();
map.keyboard.disableRotation();
export const ready = new Promise((resolve) => map.once("style.load", resolve)).then(() => {
  map.once("idle", () => addGraticule(map, true));
  followTheme(map);
});

// What covers the map: fitting and easing keep clear of it.
export function padding() {
  const panel = $("panel").getBoundingClientRect();
  if (narrow.matches) return { top: 60, left: 24, right: 24, bottom: Math.min(innerHeight - panel.top, innerHeight * 0.6) + 24 };
  return { top: 48, left: panel.right + 40, right: 64, bottom: 56 };
}

// The east of a box, counted on beyond 180 degrees where the box goes over the antimeridian.
export const easternOf = ([west, , east]) => (east < west ? east + 360 : east);

// A longitude from -180 to 180: the map counts on where it is turned over the antimeridian.
const turned = (lon) => Number(((((lon + 180) % 360) + 360) % 360 - 180).toFixed(6));

// The box of the map; west > east where the antimeridian is in it.
export function seen() {
  const { _sw: low, _ne: high } = map.getBounds();
  const [west, east] = high.lng - low.lng < 360 ? [turned(low.lng), turned(high.lng)] : [-180, 180];
  return [west, Number(Math.max(-85, low.lat).toFixed(6)), east, Number(Math.min(85, high.lat).toFixed(6))];
}

export function frame(box, animate = false) {
  const [west, south, , north] = box;
  const east = easternOf(box);
  map.fitBounds([[west, south], [east, north]], { animate: animate && !calm.matches, padding: padding(), maxZoom: 16 });
}

export function goTo(point) {
  const { x, y } = middle();
  const { width, height } = map.getCanvas().getBoundingClientRect();
  const offset = [x - width / 2, y - height / 2]; // to the middle of what the panel leaves free
  map.easeTo({ center: point, zoom: Math.max(map.getZoom(), 14), offset, duration: calm.matches ? 0 : 600 });
}

// The place that the keyboard means: the middle of what the panel leaves free.
export function middle() {
  const { top, left, right, bottom } = padding();
  const { width, height } = map.getCanvas().getBoundingClientRect();
  return { x: (left + width - right) / 2, y: (top + height - bottom) / 2 };
}

class Home {
  constructor(whole) { this.whole = whole; }
  onAdd() {
    const button = el("button", { type: "button", title: "See the whole dataset (F)", "aria-label": "See the whole dataset", onclick: this.whole }, icon("home"));
    this.element = el("div", { class: "maplibregl-ctrl maplibregl-ctrl-group" }, button);
    return this.element;
  }
  onRemove() { this.element.remove(); }
}

function readout() {
  const canvas = map.getCanvas();
  const tell = (point) => { $("coordinates").textContent = place([point.lng, point.lat]); };
  const zoom = () => { $("zoom").textContent = `zoom ${map.getZoom().toFixed(1)}`; };
  let pointed = false;
  map.on("mousemove", ({ lngLat }) => { pointed = true; tell(lngLat.wrap()); });
  map.on("move", () => {
    zoom();
    if (!pointed || canvas.matches(":focus-visible")) tell(map.unproject(middle()).wrap());
  });
  tell(map.getCenter());
  zoom();
}

export function addControls(whole) {
  map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new Home(whole), "top-right");
  map.addControl(new maplibre.AttributionControl({ compact: narrow.matches }), "bottom-right");
  if (narrow.matches) map.once("idle", () => document.querySelector(".maplibregl-compact-show")?.classList.remove("maplibregl-compact-show"));
  map.addControl(new maplibre.ScaleControl({ maxWidth: 120 }), "bottom-right");
  readout();
  const cross = () => {
    const { x, y } = middle();
    $("middle").style.translate = `${x}px ${y}px`;
    $("middle").classList.toggle("shown", map.getCanvas().matches(":focus-visible"));
  };
  for (const event of ["focus", "blur"]) map.getCanvas().addEventListener(event, cross);
  map.on("resize", cross);
}
