// Swipe: the other window lies under the map, and the map is cut off at a divider. Pointers only ever meet the upper map.

import { addBasemap, addLand, followTheme } from "./base.mjs";
import { addGraticule } from "./graticule.mjs";
import { $, show } from "./dom.mjs";
import * as draw from "./draw.mjs";
import { paint } from "./layers.mjs";
import { makeMap, map, maps, narrow } from "./map.mjs";
import { set, state } from "./state.mjs";

const [MOST, STEP] = [98, 2];
const BESIDE = 72; // pixels from the panel on, so that grip and window's name stay free of it
let below = null;
let basemap = null;

export const useBasemap = (given) => { basemap = given; };
const active = () => state.swipe > 0 && state.view !== "change" && Boolean(state.other);

const follow = () => active() && below.jumpTo({ center: map.getCenter(), zoom: map.getZoom() });

function open() {
  below = makeMap("beside", { interactive: false, attributionControl: false });
  map.on("move", follow);
  map.on("resize", () => { if (active()) { below.resize(); cut(); } });
  below.once("style.load", () => {
    addGraticule(below, false);
    followTheme(below);
    if (basemap) addBasemap(below, basemap);
    follow();
    maps().push(below);
    paint(below, state.other);
    draw.render();
    below.once("idle", () => addLand(below));
  });
}

function within(share) {
  const least = narrow.matches ? 2 : (100 * ($("panel").getBoundingClientRect().right + BESIDE)) / $("stage").clientWidth;
  return [Math.min(MOST, Math.max(least, share)), least];
}

// Left of the divider the chosen window, right of it the other one: cut at a share of the stage's width.
function cut() {
  const [share, least] = within(active() ? state.swipe : 100);
  const divider = $("divider");
  map.getCanvas().style.clipPath = active() ? `inset(0 ${100 - share}% 0 0)` : "";
  show(divider, active());
  divider.style.left = `${share}%`;
  divider.setAttribute("aria-valuemin", String(Math.ceil(least)));
  divider.setAttribute("aria-valuenow", String(Math.round(share)));
  divider.setAttribute("aria-valuetext", `${state.window} left, ${state.other} right, divider at ${Math.round(share)} percent`);
  $("left-window").textContent = state.window;
  $("right-window").textContent = state.other;
}

export function render() {
  show($("beside"), active());
  if (active() && !below) open();
  else if (active() && maps().includes(below)) { below.resize(); follow(); paint(below, state.other); }
  cut();
}

function drag(event) {
  const { left, width } = $("stage").getBoundingClientRect();
  [state.swipe] = within((100 * (event.clientX - left)) / width);
  cut();
}

export function wire() {
  const divider = $("divider");
  divider.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // no text is selected on the way
    divider.focus();
    divider.setPointerCapture(event.pointerId);
    divider.addEventListener("pointermove", drag);
  });
  divider.addEventListener("lostpointercapture", () => {
    divider.removeEventListener("pointermove", drag);
    const settled = Math.round(state.swipe);
    state.swipe = 0; // so that `set` sees a change, and the URL follows
    set({ swipe: settled });
  });
  divider.addEventListener("keydown", (event) => {
    const [now] = within(state.swipe);
    const to = { ArrowLeft: now - STEP, ArrowRight: now + STEP, Home: 0, End: MOST }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    set({ swipe: Math.ceil(within(to)[0]) });
  });
}
