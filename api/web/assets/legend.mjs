// What the colours mean, with numbers, for the view that is shown.

import * as api from "./api.mjs";
import { current, holds, look } from "./catalogue.mjs";
import { $, el, percent, show } from "./dom.mjs";
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
  untrained();
  if (!holds()) { put(); return; }
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

// Said on the map and beside it: colours of such a window mean less than they seem to.
function untrained() {
  const odd = !/^\d{4}$/.test(state.window);
  show($("untrained"), odd);
  show($("untrained-key"), odd);
}

function put(...parts) {
  shown = "";
  $("legend").replaceChildren(...parts);
}

function channels({ view, explained, stretch, bands, gamma }) {
  const rows = (explained ?? bands).map((value, i) => el("li", {},
    el("span", { class: `channel ${CHANNELS[i]}` }),
    el("span", { text: view === "pca" ? `${CHANNELS[i]}: ${percent(value)} of the variance` : `${CHANNELS[i]}: number ${value}` }),
    el("span", { class: "range", text: `${short(stretch[i][0])} to ${short(stretch[i][1])}` })));
  const words = view === "pca" ? "Pixels of one colour behaved alike all year." : `Single numbers of the ${current().dims}, as they are stored.`;
  const bent = gamma ? el("p", { text: `brightness × ${gamma.toFixed(1)}: colours are not even steps` }) : null;
  return [el("p", { text: words }), el("ul", { class: "channels" }, ...rows), ...(bent ? [bent] : [])];
}

const WORDS = {
  similarity: ["less alike", "like your example"],
  change: ["unchanged", "quite another thing"],
  observations: ["seldom seen", "often seen"],
};
const UNITS = {
  similarity: ({ unit }) => (unit === "cosine" ? "cosine with the examples" : unit),
  change: () => `1 − cosine of ${state.other} and ${state.window}`,
  observations: ({ text }) => text.split(".")[0],
  bands: ({ bands }) => `number ${bands[0]} of the ${current().dims}, as stored`,
};
const digits = (low, high) => (high - low >= 20 ? 0 : high - low >= 5 ? 1 : 2);

function ramp(legend) {
  const { colours, range, view } = legend;
  const [low, high] = range;
  const said = (t) => (low + t * (high - low)).toFixed(digits(low, high));
  const open = view === "observations" || (view !== "bands" && high < 1); // more than the last number looks like it
  const stops = Array.isArray(colours) ? colours.join(",") : String(colours);
  const marks = [0, 0.25, 0.5, 0.75, 1].map((t) => el("span", { text: `${said(t)}${t === 1 && open ? " +" : ""}` }));
  const [from, to] = WORDS[view] ?? WORDS[state.view] ?? ["low", "high"];
  const unit = UNITS[view](legend);
  return [
    el("div", { class: "ends words" }, el("span", { text: from }), el("span", { text: to })),
    el("div", { class: "ramp", style: `background:linear-gradient(to right,${stops})`, role: "img", "aria-label": `Colours from ${said(0)} to ${said(1)}, ${unit}` }),
    el("div", { class: "ends" }, ...marks),
    el("p", { text: unit }),
  ];
}

function emptiness() {
  const key = (kind, text) => [el("span", { class: `channel ${kind}` }), el("span", { text })];
  const hides = state.view === "similarity" || (state.view === "change" && state.least > 0);
  const keys = hides ? [...key("hidden", "hidden below"), ...key("none", "blank: nothing embedded")] : key("none", "blank: water, not embedded or rejected");
  return el("p", { class: "key" }, ...keys);
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
