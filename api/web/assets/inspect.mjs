// One pixel: what it is, what it was made from, and, where it is empty, what can be done about it.

import * as api from "./api.mjs";
import { current, holds } from "./catalogue.mjs";
import { $, el, icon, place, show } from "./dom.mjs";
import { offer } from "./embed.mjs";
import { on, set, state } from "./state.mjs";
import { notice } from "./status.mjs";

const STATUS = {
  embedding: ["being embedded", "A job is making this pixel's vector."],
  valid: ["embedded", "Observed often enough: it has its vector."],
  water: ["water", "The archive keeps no vectors over water."],
  "not-embedded": ["not embedded", "Nobody has made this pixel's vector in this window."],
  rejected: ["rejected", "It has fewer usable Sentinel-2 dates than were asked for (15, unless somebody said otherwise), mostly for clouds."],
  outside: ["outside this dataset", "This dataset does not reach here."],
};
const LOOK_AGAIN_MS = 5000;
let turn = 0;

const number = (value, words) => el("span", {}, el("b", { text: value }), ` ${words}`);

// In a window that holds nothing yet there is nothing to ask about: only what it takes to begin.
async function unheld(point, dataset) {
  const own = el("div");
  $("pixel").replaceChildren(head(point, "not-embedded"), el("p", { text: STATUS["not-embedded"][1] }), own);
  await offer(own, dataset, point, { status: "not-embedded", reason: "not-embedded" });
  return "not-embedded";
}

const head = (point, kind) => el("header", {}, el("h2", { text: place(point, 4) }), el("span", { class: `badge ${kind}`, text: STATUS[kind]?.[0] ?? kind }),
  el("button", { type: "button", class: "chip-close", "aria-label": "Close", onclick: () => set({ at: [] }) }, icon("close")));

function card(point, answer) {
  const { status, counts, reason } = answer.results[0];
  const meaning = STATUS[reason ?? status]?.[1] ?? "";
  const seen = counts.s2 + counts.s1_asc + counts.s1_desc > 0;
  return [
    head(point, reason ?? status),
    status === "valid" ? null : el("p", { text: meaning }),
    seen ? el("p", { class: "counts" }, number(counts.s2, "optical"), number(counts.s1_asc, "ascending"), number(counts.s1_desc, "descending radar")) : null,
    el("p", { class: "hint" }, `${answer.window} · ${answer.model} · rev `, el("span", { text: answer.revision.slice(0, 8), title: answer.revision })),
  ];
}

// The last point's status is shown as soon as it is known; every point's is told, for it says whether the pixel can be an example.
export async function inspect(point) {
  const mine = ++turn;
  const dataset = current();
  set({ at: [point] });
  show($("pixel"), true);
  if (!holds()) return unheld(point, dataset);
  if (!$("pixel").children.length) $("pixel").replaceChildren(el("p", { class: "hint", text: "Looking …" }));
  try {
    const answer = await api.vectors(dataset.id, state.window, [point]);
    const { status } = answer.results[0];
    if (mine !== turn) return status;
    $("pixel").replaceChildren(...card(point, answer).filter(Boolean));
    if (answer.results[0].reason === "embedding") lookLater(mine);
    if (status !== "valid") offer($("pixel").appendChild(el("div")), dataset, point, answer.results[0]);
    return status;
  } catch (error) {
    if (mine === turn) $("pixel").replaceChildren(notice(error, () => set({ at: [] })));
    return "";
  }
}

// A job that is not followed ends without a word. Whoever is about to press a button of the card is left to it.
function lookLater(mine) {
  setTimeout(() => {
    if (mine !== turn) return;
    const later = document.visibilityState !== "visible" || $("pixel").contains(document.activeElement);
    (later ? lookLater : again)(mine);
  }, LOOK_AGAIN_MS);
}

export const again = () => { if (state.at.length) inspect(state.at[0]); };

export function wire() {
  on(["at"], () => { if (!state.at.length) { turn++; show($("pixel"), false); $("pixel").replaceChildren(); } });
  on(["window"], again);
}
