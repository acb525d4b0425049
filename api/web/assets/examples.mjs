// The examples: chips that can be taken away, marks on the map, and what the next click does.

import { can, current } from "./catalogue.mjs";
import { $, el, icon, options, pair, show } from "./dom.mjs";
import { embedRing } from "./embed.mjs";
import { asks, clear, uploaded } from "./likeness.mjs";
import { Marker, goTo, map } from "./map.mjs";
import { unrolled } from "./ring.mjs";
import { APART, HITS, set, state } from "./state.mjs";
import { guide } from "./guide.mjs";

let marks = [];

export const mode = () => document.querySelector("#modes input:checked").value;

export function arm(name) {
  document.querySelector(`#modes input[value=${name}]`).checked = true;
  const words = { like: "Click a place that is also like it.", unlike: "Click a place that is not like it." }[name];
  if (words) guide("mode", words, [["Done", () => arm("new")]]);
  else guide("mode", null);
}

function chip(kind, text, take, go) {
  const label = { like: "Like", unlike: "Not like", area: "Area", upload: "Vectors" }[kind];
  return el("li", { class: `chip ${kind}` },
    el("button", { type: "button", class: "chip-text", title: `${label}: ${text}`, onclick: go }, el("span", { class: "sign", "aria-hidden": "true" }), el("span", { text: text })),
    el("button", { type: "button", class: "chip-close", "aria-label": `Remove: ${label} ${text}`, onclick: take }, icon("close")));
}

const without = (list, index) => list.filter((_, i) => i !== index);

function chips() {
  const placed = (kind) => state[kind].map((point, i) =>
    chip(kind, pair(point), () => set({ [kind]: without(state[kind], i) }), () => goTo(point)));
  const out = [...placed("like"), ...placed("unlike")];
  if (state.query) {
    const count = uploaded.vectors.length;
    const own = count > 1 ? `your ${count} series` : "your series";
    out.unshift(chip("upload", uploaded.linked ? "a saved query" : own, () => set({ query: "" }), () => {}));
  }
  if (state.area.length > 2) out.push(chip("area", hectares(state.area), () => set({ area: [], use: "within" }), () => goTo(state.area[0])), purpose());
  return out;
}

// Hectares by the shoelace formula on a plane that touches the sphere in the middle: fine for what one draws by hand.
export function hectares(ring) {
  const lat = ring.reduce((sum, corner) => sum + corner[1], 0) / ring.length;
  const metre = 6371008.8 * (Math.PI / 180);
  const flat = unrolled(ring).map(([lon, y]) => [lon * metre * Math.cos((lat * Math.PI) / 180), y * metre]);
  const twice = flat.reduce((sum, [x, y], i) => {
    const [x2, y2] = flat[(i + 1) % flat.length];
    return sum + x * y2 - x2 * y;
  }, 0);
  const area = Math.abs(twice) / 2e4;
  return area < 100 ? `${area.toFixed(1)} ha` : `${(area / 100).toFixed(1)} km²`;
}

function purpose() {
  const radio = (value, text) => el("label", {}, el("input", { type: "radio", name: "use", value, ...(state.use === value ? { checked: true } : {}),
    onchange: () => set({ use: value, ...(value === "within" ? {} : { view: "similarity" }) }) }), el("span", { text }));
  return el("li", { class: "purpose" }, el("fieldset", { class: "segments" }, el("legend", { class: "unseen", text: "What the area is for" }),
    radio("within", "search in it"), radio("example", "like it"), radio("counter", "not like it")),
    can(current()) ? el("button", { type: "button", class: "embed-area", text: "Embed this area", onclick: () => embedRing(state.area) }) : null);
}

function mark(point, kind, label) {
  const element = el("div", { class: `example ${kind}`, title: label }, kind === "asked" ? "" : icon(kind === "like" ? "plus" : "minus"));
  return new Marker({ element }).setLngLat(point).addTo(map);
}

export function render() {
  $("examples").replaceChildren(...chips());
  show($("examples"), $("examples").children.length > 0);
  marks.forEach((made) => made.remove());
  marks = [
    ...state.like.map((point) => mark(point, "like", "an example")),
    ...state.unlike.map((point) => mark(point, "unlike", "a counterexample")),
    ...state.at.filter((point) => ![...state.like, ...state.unlike].some((other) => other.join() === point.join())).map((point) => mark(point, "asked", "the pixel looked at")),
  ];
  const missing = !asks() && (state.unlike.length || state.area.length);
  $("find-hint").textContent = missing ? "Now click a place that is what you look for." : "Click the map: smalti finds the places that behaved like that pixel all year.";
  show($("find-hint"), !asks());
  options($("k"), HITS.map((n) => [String(n), String(n)]), String(state.k));
  options($("apart"), APART.map((m) => [String(m), m === 0 ? "any" : m < 1000 ? `${m} m` : `${m / 1000} km`]), String(state.apart));
  $("metric").value = state.metric;
  $("exact").checked = Boolean(state.exact);
}

export function wire() {
  $("modes").addEventListener("change", (event) => arm(event.target.value));
  $("k").addEventListener("change", ({ target }) => set({ k: Number(target.value) }));
  $("apart").addEventListener("change", ({ target }) => set({ apart: Number(target.value) }));
  $("metric").addEventListener("change", ({ target }) => set({ metric: target.value }));
  $("exact").addEventListener("change", ({ target }) => set({ exact: target.checked ? "1" : "" }));
  $("how").open = state.metric !== "cosine" || Boolean(state.exact);
  $("clear").addEventListener("click", () => { clear(); arm("new"); });
}
