// The best hits: as a list, and as numbered markers. Pointing at one lights up the other.

import { $, count, distance, el, icon, pair, show } from "./dom.mjs";
import { asks, ask, found, onFound } from "./likeness.mjs";
import { Marker, goTo, map } from "./map.mjs";
import { state } from "./state.mjs";
import { notice } from "./status.mjs";

const ROOM = 24; // pixels a numbered marker needs; where there is less it shrinks to a dot
let markers = [];

function light(rank, on) {
  $("hits").querySelector(`[data-rank="${rank}"]`)?.classList.toggle("lit", on);
  markers[rank - 1]?.getElement().classList.toggle("lit", on);
}

const linked = (rank) => ({ onpointerenter: () => light(rank, true), onpointerleave: () => light(rank, false) });

function row(hit) {
  const far = hit.km === null ? pair(hit.at) : distance(hit.km);
  const unseen = (text) => el("span", { class: "unseen", text });
  const go = el("button", { type: "button", class: "go", title: "Go there", onclick: () => goTo(hit.at), onfocus: () => light(hit.rank, true), onblur: () => light(hit.rank, false) },
  unseen("Hit "), el("span", { class: "rank", text: hit.rank }), bar(hit.score), unseen(", score "),
  el("span", { class: "score", text: hit.score.toFixed(4) }), unseen(hit.km === null ? ", at " : ", distance "), el("span", { class: "far", text: far }));
  const more = (mode, name, label) => el("button", { type: "button", class: "nudge", title: label, "aria-label": `${label}: hit ${hit.rank}`,
    onclick: () => ask(hit.at, mode) }, icon(name));
  return el("li", { "data-rank": hit.rank, ...linked(hit.rank) }, go, more("like", "plus", "More like this"), more("unlike", "minus", "Less like this"));
}

// The bar shows the score within the hits: between the least of them and 1 there is often little room.
function bar(score) {
  const least = found.hits.at(-1)?.score ?? 0;
  const share = 0.15 + 0.85 * ((score - least) / Math.max(1e-6, 1 - least));
  return el("span", { class: "bar", "aria-hidden": "true" }, el("span", { style: `width:${Math.round(100 * Math.min(1, share))}%` }));
}

function marker(hit) {
  const element = el("button", { type: "button", class: "hit", tabindex: "-1", "aria-label": `Hit ${hit.rank}, score ${hit.score.toFixed(4)}`,
    ...linked(hit.rank), onclick: (event) => { event.stopPropagation(); reveal(hit.rank); } }, el("span", { text: hit.rank }));
  const made = new Marker({ element }).setLngLat(hit.at).addTo(map);
  element.setAttribute("role", "button");
  return made;
}

function reveal(rank) {
  const item = $("hits").querySelector(`[data-rank="${rank}"]`);
  item?.scrollIntoView({ block: "nearest" });
  item?.querySelector("button").focus();
}

// Best first: whoever finds no room becomes a dot, so that a crowded place stays readable.
function declutter() {
  const kept = [...state.like, ...state.unlike].map((point) => map.project(point));
  markers.forEach((made, i) => {
    const at = map.project(found.hits[i].at);
    const crowded = kept.some((other) => Math.hypot(other.x - at.x, other.y - at.y) < ROOM);
    made.getElement().classList.toggle("dot", crowded);
    if (!crowded) kept.push(at);
  });
}

function words() {
  const { hits, answer } = found;
  if (found.state === "searching") return "Looking …";
  if (found.state !== "found") return "";
  if (!hits.length) return state.area.length && state.use === "within" ? "Nothing embedded lies in this area." : "No pixel to compare with.";
  const short = hits.length < state.k ? (state.apart ? " There are no more so far apart." : " There are no more.") : "";
  const gone = answer.partial ? ` ${count(answer.missing.length, "part")} of the index did not answer: there may be better ones.` : "";
  return `${count(hits.length, "place")} in ${answer.window}: ${how(answer)}.${short}${gone}`;
}

// What was done, as the server tells it: nobody should take candidates for everything.
export function how({ engine, recall, searched }) {
  const scanned = searched.reduce((sum, one) => sum + one.scanned, 0);
  if (engine === "exact") return `each of ${count(scanned, "pixel")} compared`;
  const finds = recall === null ? "by the index" : `by an index that finds ${(100 * recall).toFixed(1).replace(/\.0$/, "")} % of the best ten`;
  return engine === "index" ? `${finds}, scored exactly` : `${finds}, and some pixel by pixel; scored exactly`;
}

// Whoever works with the keyboard stays where they were, though the list is made anew.
function keepingFocus(change) {
  const held = document.activeElement?.closest("#hits li")?.dataset.rank;
  change();
  if (held) ($("hits").querySelector(`[data-rank="${held}"] button`) ?? $("result")).focus();
}

const render = () => keepingFocus(redraw);

function redraw() {
  markers.forEach((made) => made.remove());
  markers = found.hits.map(marker);
  declutter();
  $("hits").replaceChildren(...found.hits.map(row));
  $("result").replaceChildren(found.error ? notice(found.error) : words());
  show($("result"), $("result").textContent !== "");
  show($("after"), asks() || state.area.length > 0 || state.unlike.length > 0);
  $("download").disabled = !found.hits.length;
}

function download() {
  const features = found.hits.map(({ at, score, km, rank }) => ({
    type: "Feature", geometry: { type: "Point", coordinates: at },
    properties: { rank, score, ...(km === null ? {} : { distance_km: Number(km.toFixed(4)) }) },
  }));
  const { dataset, model, window, revision, query } = found.answer;
  const body = JSON.stringify({ type: "FeatureCollection", dataset, model, window, revision, query, features }, null, 1);
  const url = URL.createObjectURL(new Blob([body], { type: "application/geo+json" }));
  el("a", { href: url, download: `smalti-${dataset}-${window}.geojson` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export function wire() {
  onFound(render);
  map.on("zoom", declutter);
  $("download").addEventListener("click", download);
}
