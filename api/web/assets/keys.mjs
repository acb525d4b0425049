// The keyboard: the same as the mouse can do, and a page that lists it.

import { earlier, later, swipe, view } from "./choose.mjs";
import { $ } from "./dom.mjs";
import { cancel, close, corner, drawing, start, undoCorner } from "./draw.mjs";
import { arm } from "./examples.mjs";
import { map, middle } from "./map.mjs";

const VIEWS = ["pca", "bands", "similarity", "change", "observations"];
const writes = (element) => element.matches("input:not([type=radio]):not([type=range]), select, textarea");

export function wire(pick, whole) {
  const here = () => map.unproject(middle()).wrap().toArray();
  const whileDrawing = { " ": () => corner(), Enter: close, Backspace: undoCorner, Escape: cancel };
  const onMap = { Enter: () => pick(here(), null), l: () => pick(here(), "like"), n: () => pick(here(), "unlike") };
  const anywhere = {
    d: () => (drawing() ? cancel() : (map.getCanvas().focus(), start())), s: swipe, f: whole, "[": earlier, "]": later,
    "?": () => $("help").showModal(), Escape: () => (drawing() ? cancel() : arm("new")),
    ...Object.fromEntries(VIEWS.map((name, i) => [String(i + 1), () => view(name)])),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target) || $("help").open) return;
    const mapped = event.target === map.getCanvas() || event.target === document.body;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const run = (drawing() && mapped && whileDrawing[key]) || (mapped && onMap[key]) || anywhere[key];
    if (!run) return;
    event.preventDefault();
    run();
  });
  $("help-open").addEventListener("click", () => $("help").showModal());
}
