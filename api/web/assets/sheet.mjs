// The panel: a card beside the map, and on small screens a sheet that folds away.

import { $ } from "./dom.mjs";
import { narrow } from "./map.mjs";

function put(folded) {
  $("panel").classList.toggle("folded", folded);
  $("fold").setAttribute("aria-expanded", String(!folded));
  const words = folded ? "Unfold the panel" : "Fold the panel";
  $("fold").title = words;
  $("fold").setAttribute("aria-label", words);
}

// On a small screen the answer must be seen; a large one never moves unasked.
export function reveal(element) {
  if (!narrow.matches) return;
  put(false);
  $("sheet").scrollTo({ top: element.offsetTop - $("sheet").offsetTop });
}

export function wire() {
  $("fold").addEventListener("click", () => put(!$("panel").classList.contains("folded")));
  // Scale and attribution stand on the sheet, wherever its edge is.
  new ResizeObserver(() => document.body.style.setProperty("--sheet", `${$("panel").offsetHeight}px`)).observe($("panel"));
}
