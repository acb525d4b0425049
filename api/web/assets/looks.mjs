// How the colours look: contrast, brightness, colour map, and a basis fitted to what is in view.

import * as api from "./api.mjs";
import { current, look } from "./catalogue.mjs";
import { $, debounce, options, show } from "./dom.mjs";
import { easternOf, map } from "./map.mjs";
import { COLORMAPS, set, state } from "./state.mjs";
import { toast, trouble } from "./status.mjs";
import { oneNumber } from "./views.mjs";

const WAIT_MS = 120; // while a slider moves
const PLAIN = { contrast: 0, gamma: 0, most: 0, colormap: "" };
const TOPS = { s2: 100, s1_asc: 60, s1_desc: 60 }; // the server's own
const times = (log2) => `× ${(2 ** log2).toFixed(log2 < -1 ? 2 : 1)}`;
const WRITTEN = { contrast: times, gamma: times, most: (dates) => `at ${dates}` };

export function fill() {
  if (!current()) return;
  const values = { ...state, most: state.most || TOPS[state.sensor] };
  for (const [id, written] of Object.entries(WRITTEN)) {
    $(id).value = values[id];
    $(`${id}-value`).textContent = written(Number(values[id]));
  }
  options($("colormap"), [["", "as usual"], ...COLORMAPS.map((name) => [name, name])], state.colormap);
  show($("colormap-field"), oneNumber());
  $("plain").disabled = Object.entries(PLAIN).every(([key, silent]) => state[key] === silent);
}

// The box of the map, as far as the dataset reaches.
function inView() {
  const [west, south, , north] = current().bounds;
  const east = easternOf(current().bounds);
  const seen = map.getBounds();
  const turns = 360 * Math.round((west + east - seen.getWest() - seen.getEast()) / 720); // the map may have been turned on
  return [Math.max(west, seen.getWest() + turns), Math.max(south, seen.getSouth()), Math.min(east, seen.getEast() + turns), Math.min(north, seen.getNorth())];
}

async function fitHere() {
  const dataset = current();
  const bbox = inView();
  if (bbox[0] >= bbox[2] || bbox[1] >= bbox[3]) { toast("There is nothing of this dataset in view."); return; }
  $("fit-here").disabled = true;
  try {
    const made = await api.fitBasis(dataset.id, { name: "in-view", windows: [state.window], bbox: bbox.map((edge) => (edge > 180 ? edge - 360 : edge)) });
    trouble("basis", null);
    if (current()?.id !== dataset.id) return;
    await look();
    set({ basis: made.id }); // the id, not the name: this link means these colours for ever
    toast("Fitted to what is in view. The link keeps these colours.");
  } catch (error) {
    trouble("basis", error);
  } finally {
    $("fit-here").disabled = false;
  }
}

export function wire() {
  for (const id of Object.keys(WRITTEN)) {
    $(id).addEventListener("input", ({ target }) => {
      const value = Number(target.value);
      $(`${id}-value`).textContent = WRITTEN[id](value);
      debounce(id, WAIT_MS, () => set({ [id]: value }));
    });
  }
  $("colormap").addEventListener("change", ({ target }) => set({ colormap: target.value }));
  $("plain").addEventListener("click", () => set(PLAIN));
  $("fit-here").addEventListener("click", fitHere);
  $("looks").open = Object.entries(PLAIN).some(([key, silent]) => state[key] !== silent);
}
