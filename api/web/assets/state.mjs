// What is chosen, and nothing else. It lives in the URL, so a reload and a shared link show the same picture.

export const HITS = [5, 10, 25, 50, 100];
export const APART = [0, 50, 100, 250, 1000];

export const COLORMAPS = ["fern", "ember", "ice", "tide", "cubehelix", "grey"];

const point = (text) => text.split(",").map((part) => (part.trim() ? Number(part) : NaN));
const isPlace = (value) => value.length === 2 && value.every(Number.isFinite) && Math.abs(value[0]) <= 180 && Math.abs(value[1]) <= 90;
const points = {
  read: (text) => text.split("~").map(point).filter(isPlace),
  write: (value) => value.map((place) => place.map((number) => Number(number.toFixed(6))).join(",")).join("~"),
};
// What a link may say is what the page itself could have written: anything else counts as silence.
const number = (least, most) => ({
  read: (said) => { const value = said.trim() ? Number(said) : NaN; return value >= least && value <= most ? value : undefined; },
  write: String,
});
const among = (...values) => ({ read: (said) => values.find((value) => String(value) === said), write: String });
const text = (allowed = /^.*$/) => ({ read: (said) => (allowed.test(said) ? said : undefined), write: String });

// Every key: how it is read and written, and what holds where the URL is silent.
const KEYS = {
  dataset: [text(), ""],
  window: [text(), ""],
  make: [among("1"), ""], // the window holds nothing yet, and is meant
  view: [among("pca", "bands", "similarity", "change", "observations"), "pca"],
  basis: [text(), "default"],
  bands: [text(/^\d{1,4}(,\d{1,4},\d{1,4})?$/), "0,1,2"],
  sensor: [among("s2", "s1_asc", "s1_desc"), "s2"], // whose observations are counted
  most: [number(0, 200), 0], // observations shown brightest; 0: the server's own
  contrast: [number(-2, 2), 0], // the stretch is 2 ^ contrast times as steep
  gamma: [number(-2, 2), 0], // log2 of it
  colormap: [among(...COLORMAPS), ""], // of one number; silent: the view's own
  opacity: [number(0, 100), 100],
  threshold: [number(0, 0.98), 0.6], // low end of likeness
  least: [number(0, 0.98), 0.05], // low end of change
  other: [text(), ""], // the window compared with
  swipe: [number(0, 98), 0], // where the divider stands, percent; 0: no swipe
  like: [points, []],
  unlike: [points, []],
  area: [points, []],
  use: [among("within", "example", "counter"), "within"], // the area: search within it, or its average is an example, or a counterexample
  query: [text(), ""], // id of uploaded examples
  k: [among(...HITS), 10],
  apart: [among(...APART), 100], // metres between hits
  metric: [among("cosine", "euclidean"), "cosine"],
  exact: [among("1"), ""], // every pixel compared, whatever the index says
  at: [points, []], // the pixel looked at
};

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function read() {
  const asked = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(KEYS).map(([key, [form, silent]]) => {
    return [key, (asked.has(key) ? form.read(asked.get(key)) : undefined) ?? silent];
  }));
}

export const state = read();
const listeners = [];

function write() {
  const pairs = Object.entries(KEYS)
    .filter(([key, [, silent]]) => !same(state[key], silent))
    .map(([key, [form]]) => `${key}=${encodeURIComponent(form.write(state[key])).replaceAll("%2C", ",").replaceAll("%3A", ":")}`);
  history.replaceState(history.state, "", `${location.pathname}${pairs.length ? "?" : ""}${pairs.join("&")}${location.hash}`);
}

// Change what is chosen: the URL follows, then whoever listens to one of the changed keys.
export function set(changes) {
  const changed = new Set(Object.keys(changes).filter((key) => !same(state[key], changes[key])));
  if (!changed.size) return;
  Object.assign(state, changes);
  write();
  for (const [keys, listener] of listeners) if (keys.some((key) => changed.has(key))) listener(changed);
}

export const on = (keys, listener) => listeners.push([keys, listener]);
