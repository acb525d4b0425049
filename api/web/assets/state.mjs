// What is chosen, and nothing else. It lives in the URL, so a reload and a shared link show the same picture.

const point = (text) => text.split(",").map(Number);
const isPlace = (value) => value.length === 2 && value.every(Number.isFinite) && Math.abs(value[0]) <= 180 && Math.abs(value[1]) <= 90;
const points = {
  read: (text) => text.split("~").map(point).filter(isPlace),
  write: (value) => value.map((place) => place.map((number) => Number(number.toFixed(6))).join(",")).join("~"),
};
const number = { read: Number, write: String };
const text = { read: String, write: String };

// Every key: how it is read and written, and what holds where the URL is silent.
const KEYS = {
  dataset: [text, ""],
  window: [text, ""],
  view: [text, "pca"],
  basis: [text, "default"],
  bands: [text, "0,1,2"],
  opacity: [number, 100],
  threshold: [number, 0.6], // low end of likeness
  least: [number, 0.05], // low end of change
  other: [text, ""], // the window compared with
  swipe: [number, 0], // where the divider stands, percent; 0: no swipe
  like: [points, []],
  unlike: [points, []],
  area: [points, []],
  use: [text, "within"], // the area: search within it, or its average is an example
  query: [text, ""], // id of uploaded examples
  k: [number, 10],
  apart: [number, 100], // metres between hits
  at: [points, []], // the pixel looked at
};

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function read() {
  const asked = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(KEYS).map(([key, [form, silent]]) => {
    const value = asked.has(key) ? form.read(asked.get(key)) : silent;
    return [key, Number.isNaN(value) ? silent : value];
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
