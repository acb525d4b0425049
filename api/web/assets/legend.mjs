// What the colours mean, with numbers, for the view that is shown.

import * as api from "./api.mjs";
import { current, look } from "./catalogue.mjs";
import { $, el, percent } from "./dom.mjs";
import { asks } from "./likeness.mjs";
import { state } from "./state.mjs";
import { notice } from "./status.mjs";
import { viewOf } from "./views.mjs";

const CHANNELS = ["red", "green", "blue"];
const short = (value) => (Math.abs(value) >= 10 ? value.toFixed(0) : value.toFixed(1));
let shown = ""; // the picture that the legend tells of
let turn = 0;

// The server's legend, asked for only when the picture's meaning changed. Of several calls the last one counts.
export async function explain() {
  const dataset = current();
  const mine = ++turn;
  if (!dataset) return;
  if (!dataset.bases.length && (state.view === "pca" || state.view === "bands")) { put(withoutBasis(dataset)); return; }
  if (state.view === "similarity" && !asks()) {
    put(el("p", { class: "hint", text: "Click a place on the map: everywhere is then coloured by how much it is like that place." }));
    return;
  }
  const { window } = state;
  const view = await viewOf(window).catch(() => null);
  const key = `${dataset.id}/${window}?${view}`;
  if (mine !== turn || key === shown) return;
  const legend = view && await api.legend(dataset.id, window, view).catch(() => null);
  if (mine !== turn) return;
  if (!legend) { put(); return; }
  put(...(legend.colours ? ramp(legend) : channels(legend)), emptiness());
  shown = key;
}

function put(...parts) {
  shown = "";
  $("legend").replaceChildren(...parts);
}

function channels({ view, explained, stretch, bands }) {
  const rows = (explained ?? bands).map((value, i) => el("li", {},
    el("span", { class: `channel ${CHANNELS[i]}` }),
    el("span", { text: view === "pca" ? `${CHANNELS[i]}: ${percent(value)} of the variance` : `${CHANNELS[i]}: number ${value}` }),
    el("span", { class: "range", text: `${short(stretch[i][0])} to ${short(stretch[i][1])}` })));
  const words = view === "pca" ? "Pixels of one colour behaved alike all year." : `Single numbers of the ${current().dims}, as they are stored.`;
  return [el("p", { text: words }), el("ul", { class: "channels" }, ...rows)];
}

const WORDS = {
  similarity: ["less alike", "like your example"],
  change: ["unchanged", "quite another thing"],
};

function ramp({ colours, range, view }) {
  const [low, high] = range;
  const stops = Array.isArray(colours) ? colours.join(",") : String(colours);
  const marks = [0, 0.25, 0.5, 0.75, 1].map((t) => el("span", { text: `${(low + t * (high - low)).toFixed(2)}${t === 1 && high < 1 ? " +" : ""}` }));
  const [from, to] = WORDS[view] ?? WORDS[state.view] ?? ["low", "high"];
  const unit = state.view === "change" ? `1 − cosine of ${state.other} and ${state.window}` : "cosine with the examples";
  return [
    el("div", { class: "ends words" }, el("span", { text: from }), el("span", { text: to })),
    el("div", { class: "ramp", style: `background:linear-gradient(to right,${stops})`, role: "img", "aria-label": `Colours from ${low.toFixed(2)} to ${high.toFixed(2)}, ${unit}` }),
    el("div", { class: "ends" }, ...marks),
    el("p", { text: unit }),
  ];
}

function emptiness() {
  const text = state.view === "similarity" || (state.view === "change" && state.least > 0)
    ? "grey: hidden below · blank: nothing embedded" : "blank: water, or not embedded";
  return el("p", { class: "key" }, el("span", { class: "channel none" }), el("span", { text }));
}

function withoutBasis(dataset) {
  const box = el("div", { class: "notice calm" });
  const fit = async () => {
    button.disabled = true;
    button.textContent = "Fitting …";
    try {
      await api.fitBasis(dataset.id);
      await look();
    } catch (error) {
      box.append(notice(error));
    }
  };
  const button = el("button", { type: "button", text: "Fit the colours", onclick: fit });
  box.append(el("p", { text: "This dataset has no colours yet: a basis turns its numbers into red, green and blue." }), button,
    el("p", { class: "remedy" }, "or ", el("code", { text: `smalti pca fit ${dataset.id}` })));
  return box;
}
