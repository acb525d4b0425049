// The page: starts the parts, and tells each what it must follow. What is chosen lives in state.mjs and in the URL.

import * as api from "./api.mjs";
import { addBasemap, addLand } from "./base.mjs";
import { current, look, onCatalogue, watch } from "./catalogue.mjs";
import * as choose from "./choose.mjs";
import * as compare from "./compare.mjs";
import { $, show } from "./dom.mjs";
import * as draw from "./draw.mjs";
import * as blocks from "./blocks.mjs";
import * as embed from "./embed.mjs";
import * as examples from "./examples.mjs";
import * as hits from "./hits.mjs";
import * as inspector from "./inspect.mjs";
import { following, onEmbedded, onSquares, resume } from "./job.mjs";
import { paint, refresh, refreshWhere } from "./layers.mjs";
import { explain } from "./legend.mjs";
import { ask, asks, limits, onFound, search, watchLikeness } from "./likeness.mjs";
import * as measure from "./measure.mjs";
import * as looks from "./looks.mjs";
import { addControls, easternOf, frame, map, maps, placed, ready } from "./map.mjs";
import { on, state } from "./state.mjs";
import { toast, watchLoading } from "./status.mjs";
import * as places from "./places.mjs";
import * as keys from "./keys.mjs";
import * as sheet from "./sheet.mjs";
import * as upload from "./upload.mjs";

const LAND_WAIT_MS = 250;
const SHOWS = ["dataset", "window", "view", "basis", "bands", "sensor", "most", "contrast", "gamma", "colormap", "threshold", "least", "other", "like", "unlike", "query", "use", "metric"];

function redraw() {
  paint(map, state.window);
  compare.render();
  explain();
}

// Of what is embedded; where nothing is, of what could be, unless that is half the world.
function extent() {
  const { bounds, source_bounds: source } = current() ?? {};
  return bounds ?? (source && easternOf(source) - source[0] < 90 ? source : null);
}
const whole = () => extent() && frame(extent(), true);

// A place was chosen, by pointer or key: look at it, and if it holds a vector, ask.
async function pick(point, mode) {
  if (!current()) return;
  if (draw.drawing()) { draw.corner(point); return; }
  const { dataset } = state;
  const meant = mode ?? examples.mode();
  const status = await inspector.inspect(point);
  if (state.dataset !== dataset) return;
  // Of several new questions the last one counts; each further example counts.
  const last = state.at[0]?.join() === point.join();
  if (status === "valid" && (last || meant !== "new")) ask(point, meant);
  sheet.reveal($("pixel"));
}

// An empty square says that it can be filled: its middle is looked at, and the offer made.
async function vacant(point) {
  await inspector.inspect(point);
  sheet.reveal($("pixel"));
}

function followChoices() {
  on(Object.keys(state), () => { choose.fill(); looks.fill(); });
  on(["dataset"], () => { choose.fillBases(); if (extent()) frame(extent()); });
  on(["dataset", "window"], blocks.look);
  on(["basis"], choose.fillBases);
  on(SHOWS, redraw);
  on(["swipe"], compare.render);
  on(["opacity"], () => { paint(map, state.window); compare.render(); });
  on(["like", "unlike", "area", "use", "query", "at", "k", "apart", "metric", "exact"], examples.render);
  on(["area"], () => draw.render());
  watchLikeness();
}

// The first look: data on the map before anything else, then what the link asks for, then the rest of the world.
async function begin() {
  await Promise.all([look(), ready]);
  let begun = false;
  const follow = () => { // once there is a dataset: at once, or when a server that was away is back
    begun = true;
    if (!placed && extent()) frame(extent());
    if (asks()) search().then(examples.render);
    if (state.at.length) inspector.again();
  };
  choose.fill();
  looks.fill();
  if (current()) follow();
  redraw();
  choose.fillBases();
  examples.render();
  draw.render();
  measure.render();
  places.render();
  embed.render();
  onCatalogue((dataset, changed) => {
    if (!begun) follow();
    choose.fill();
    looks.fill();
    choose.fillBases();
    redraw();
    places.render();
    embed.render();
    if (!changed) return;
    if (!following()) maps().forEach(refresh);
    blocks.look();
    inspector.again(); // a job is over a moment before what it stored is seen
  });
  followChoices();
  onFound(({ state: how }) => { if (how === "refused" || how === "found") redraw(); });
  map.once("idle", () => setTimeout(() => addLand(map), LAND_WAIT_MS));
  onSquares((squares) => maps().forEach((shown) => (squares.length ? refreshWhere(shown, squares) : refresh(shown))));
  onEmbedded(() => {
    maps().forEach(refresh);
    inspector.again();
  });
  blocks.onVacant(vacant);
  blocks.look();
  resume();
  watch();
}

api.settings().then(({ basemap, max_hits }) => {
  limits.hits = max_hits;
  if (basemap) ready.then(() => { addBasemap(map, basemap); compare.useBasemap(basemap); });
}, () => {});
for (const part of [choose, looks, compare, draw, examples, hits, inspector, measure, upload, sheet, places, blocks, embed]) part.wire();
keys.wire(pick, whole);
addControls(whole);
watchLoading(map);
map.on("click", ({ lngLat, originalEvent }) => {
  const mode = originalEvent.shiftKey ? "like" : originalEvent.altKey ? "unlike" : null;
  pick(lngLat.wrap().toArray().map((n) => Number(n.toFixed(6))), mode);
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href); // there is no clipboard where a page comes over plain HTTP
    toast("Link copied: it shows this very picture.");
  } catch {
    toast("Copy the address bar: it holds this picture.");
  }
});
show($("panel"), true);
begin();
