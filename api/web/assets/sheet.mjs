// The panel: a card beside the map, and on small screens a sheet that folds away.

import { $ } from "./dom.mjs";

const narrow = matchMedia("(max-width: 720px)");

function put(folded) {
  $("panel").classList.toggle("folded", folded);
  $("fold").setAttribute("aria-expanded", String(!folded));
  const words = folded ? "Unfold the panel" : "Fold the panel";
  $("fold").title = words;
  $("fold").setAttribute("aria-label", words);
}

// On a small screen the answer must be seen; a large one never hides it unasked.
export const unfold = () => { if (narrow.matches) put(false); };

export function wire() {
  $("fold").addEventListener("click", () => put(!$("panel").classList.contains("folded")));
}
