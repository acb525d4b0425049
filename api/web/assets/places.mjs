// Datasets that are too small to be seen from so far away, as stones on the map: one click goes there.

import { all, choose, current } from "./catalogue.mjs";
import { el } from "./dom.mjs";
import { Marker, easternOf, frame, map } from "./map.mjs";

const SEEN = 28; // pixels: from there on the data show themselves
let stones = [];

function go(dataset) {
  if (dataset.id !== current().id) choose(dataset.id);
  frame(dataset.bounds, true);
}

const small = (box) => {
  const [west, south, , north] = box;
  const [a, b] = [map.project([west, north]), map.project([easternOf(box), south])];
  return Math.max(b.x - a.x, b.y - a.y) < SEEN;
};

export function render() {
  stones.forEach((stone) => stone.remove());
  stones = all().filter(({ bounds }) => bounds && small(bounds)).map((dataset) => {
    const element = el("button", { type: "button", class: "stone", title: `Go to ${dataset.title}`, "aria-label": `Go to ${dataset.title}`,
      onclick: (event) => { event.stopPropagation(); go(dataset); } });
    return new Marker({ element }).setLngLat(dataset.center).addTo(map);
  });
}

export const wire = () => map.on("moveend", render);
