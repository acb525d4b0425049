// The document: finding and making elements, and how numbers are written for people.

export const $ = (id) => document.getElementById(id);

// el("button", { class: "x", text: "Go", "aria-label": "Go on", onclick: go }, child, ...)
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Fill a <select>, leaving it alone where nothing changed: replacing options closes a list that is open.
export function options(select, entries, value) {
  const key = JSON.stringify(entries);
  if (select.dataset.key !== key) {
    select.replaceChildren(...entries.map(([id, text]) => new Option(text, id)));
    select.dataset.key = key;
  }
  select.value = value;
}

export const show = (element, visible) => { element.hidden = !visible; };

// Icons are drawn once, in index.html, and named here.
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

// The map library writes an attribution as HTML; an operator's words are words.
export const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

export const percent = (share) => `${Math.round(share * 100)} %`;
export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export function place([lon, lat], digits = 5) {
  const half = (value, positive, negative) => `${Math.abs(value).toFixed(digits)}° ${value < 0 ? negative : positive}`;
  return `${half(lat, "N", "S")}, ${half(lon, "E", "W")}`;
}

export const pair = ([lon, lat]) => `${lat.toFixed(4)}, ${lon.toFixed(4)}`;

export const distance = (km) => (km < 1 ? `${Math.round(km * 1000)} m` : `${km.toFixed(km < 10 ? 2 : 0)} km`);

export function bytes(n) {
  if (n < 1e6) return `${Math.max(1, Math.round(n / 1e3))} kB`;
  return n < 1e9 ? `${Math.round(n / 1e6)} MB` : `${(n / 1e9).toFixed(1)} GB`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 90) return count(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 5400) return count(Math.round(seconds / 60), "minute");
  return count(Math.round(seconds / 3600), "hour");
}

const later = new Map();
export function debounce(key, wait, run) {
  clearTimeout(later.get(key));
  later.set(key, setTimeout(run, wait));
}
