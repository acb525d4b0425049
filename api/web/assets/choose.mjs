// The form: which dataset, window and view, and how opaque. Shows what is chosen, and changes it.

import * as api from "./api.mjs";
import { chooseWindow, choose as chooseDataset, all, current, holds, ID, usualBasis } from "./catalogue.mjs";
import { $, debounce, options, percent, show } from "./dom.mjs";
import { asks } from "./likeness.mjs";
import { set, state } from "./state.mjs";
import { trouble } from "./status.mjs";

const RAMP_WAIT_MS = 120; // while a slider moves
const numbers = () => [...$("bands").querySelectorAll("input[type=number]")];
const lowKey = () => (state.view === "change" ? "least" : "threshold");

export function fill() {
  const dataset = current();
  if (!dataset) return;
  options($("dataset"), all().map((d) => [d.id, d.title]), dataset.id);
  const windows = holds() ? dataset.windows : [...dataset.windows, state.window].sort();
  options($("window"), windows.map((w) => [w, w]), state.window);
  const others = dataset.windows.filter((window) => window !== state.window);
  options($("other"), others.map((w) => [w, w]), state.other);
  show($("compare-row"), others.length > 0);
  const views = $("views");
  for (const radio of views.querySelectorAll("input")) {
    radio.checked = radio.value === state.view;
    radio.disabled = radio.value === "change" && !others.length;
    if (radio.value === "observations") show(radio.parentElement, dataset.views.includes("observations"));
  }
  for (const row of document.querySelectorAll("[data-view]")) show(row, row.dataset.view.split(" ").includes(state.view));
  if (!dataset.bases.length) show($("basis").closest(".field"), false);
  if (state.view === "similarity" && !asks()) show($("low-field"), false);
  $("swipe").setAttribute("aria-pressed", String(state.swipe > 0 && state.view !== "change"));
  $("swipe").disabled = state.view === "change";
  const low = state[lowKey()];
  $("threshold").value = low;
  $("threshold-value").textContent = low.toFixed(2);
  $("opacity").value = state.opacity;
  $("opacity-value").textContent = `${state.opacity} %`;
  const inputs = numbers();
  const bands = state.bands.split(",");
  inputs.forEach((input, i) => {
    show(input.parentElement, i < bands.length);
    if (i < bands.length && document.activeElement !== input) input.value = bands[i];
    input.max = dataset.dims - 1;
  });
  inputs[0].parentElement.className = bands.length > 1 ? "red" : "";
  $("alone").checked = bands.length === 1;
  $("sensor").value = state.sensor;
  $("provenance").textContent = `${dataset.model} · revision ${dataset.revision.slice(0, 8)} · ${dataset.licence}`;
}

// How much of the variance a basis shows is worth knowing before one trusts its colours.
export async function fillBases() {
  const dataset = current();
  if (!dataset?.bases.length) { options($("basis"), [["default", "none yet"]], "default"); return; }
  const { bases } = await api.bases(dataset.id).catch(() => ({ bases: dataset.bases.map((name) => ({ name })) }));
  if (current()?.id !== dataset.id) return;
  const share = ({ explained }) => (explained ? ` (${percent(explained.reduce((a, b) => a + b))})` : "");
  const entries = bases.filter(({ dims }) => !dims || dims === dataset.dims).map((basis) => [basis.name, basis.name + share(basis)]);
  if (ID.test(state.basis)) { // of a link, or just fitted: the name it has today may move, the id cannot
    const { basis } = state;
    const named = bases.find(({ id }) => id === basis);
    const gone = named ? null : await api.basis(dataset.id, basis).then(() => null, (error) => error);
    if (current()?.id !== dataset.id || state.basis !== basis) return;
    if (gone?.status === 404) {
      trouble("choice", { message: `There is no basis ${basis} here; this is ${usualBasis(dataset)}.` });
      set({ basis: usualBasis(dataset) });
      return;
    }
    entries.push([basis, named ? `${named.name}, fixed${share(named)}` : `of this link, ${basis.slice(0, 6)}`]);
  }
  options($("basis"), entries, state.basis);
}

function step(by) {
  const windows = current()?.windows ?? [];
  const next = windows[windows.indexOf(state.window) + by];
  if (next) chooseWindow(next);
}
export const earlier = () => step(-1);
export const later = () => step(1);

export function view(name) {
  if (name === "change" && !state.other) return;
  if (name === "observations" && !current()?.views.includes(name)) return;
  set({ view: name, colormap: name === state.view ? state.colormap : "" }); // each view has colours of its own
}

export const swipe = () => { if (state.other && state.view !== "change") set({ swipe: state.swipe ? 0 : 50 }); };

export function wire() {
  const changed = (id, run) => $(id).addEventListener("change", (event) => run(event.target.value));
  changed("dataset", chooseDataset);
  changed("window", chooseWindow);
  changed("basis", (basis) => set({ basis }));
  changed("other", (other) => set({ other }));
  changed("sensor", (sensor) => set({ sensor, most: 0 }));
  $("views").addEventListener("change", (event) => view(event.target.value));
  $("bands").addEventListener("change", () => {
    const most = current().dims - 1;
    const shown = $("alone").checked ? numbers().slice(0, 1) : numbers();
    const first = Number(shown[0].value) || 0;
    const said = ({ value }, i) => (value === "" ? first + i : Math.round(Number(value) || 0)); // silent: the next one
    set({ bands: shown.map((input, i) => Math.min(most, Math.max(0, said(input, i)))).join(",") });
    fill();
  });
  $("swipe").addEventListener("click", swipe);
  $("threshold").addEventListener("input", ({ target }) => {
    const [key, low] = [lowKey(), Number(target.value)]; // now: the slider may be filled anew before it is set
    $("threshold-value").textContent = low.toFixed(2);
    debounce("threshold", RAMP_WAIT_MS, () => set({ [key]: low }));
  });
  $("opacity").addEventListener("input", ({ target }) => set({ opacity: Number(target.value) }));
  $("choices").addEventListener("submit", (event) => event.preventDefault());
}
