// How things go: the thin bar, what went wrong and what to do about it, and short confirmations.

import { busy, keep } from "./api.mjs";
import { $, el, icon, show } from "./dom.mjs";

const TOAST_MS = 2600;
const troubles = new Map();
let loading = false;

// One trouble a cause: the next success of the same cause takes it away.
export function trouble(cause, error) {
  if (error && error.name === "AbortError") return;
  if (error ? troubles.get(cause)?.message === error.message : !troubles.has(cause)) return;
  error ? troubles.set(cause, error) : troubles.delete(cause);
  $("trouble").replaceChildren(...[...troubles].map(([key, problem]) => notice(problem, () => trouble(key, null))));
  show($("trouble"), troubles.size > 0);
  if (error) console.info(`smalti: ${error.message}`);
}

// What was refused and what can be done, wherever it belongs.
export function notice(error, dismiss) {
  const parts = [el("p", { text: error.message }), error.remedy ? el("p", { class: "remedy", text: error.remedy }) : null];
  if (error.status === 401 || (error.status === 403 && error.remedy?.includes("API_KEYS"))) parts.push(keyForm());
  return el("div", { class: "notice" }, ...parts,
    dismiss ? el("button", { type: "button", class: "chip-close", "aria-label": "Dismiss", onclick: dismiss }, icon("close")) : null);
}

function keyForm() {
  const field = el("input", { type: "password", placeholder: "API key", "aria-label": "API key", autocomplete: "off" });
  const use = (event) => {
    event.preventDefault();
    keep(field.value.trim());
    location.reload();
  };
  return el("form", { class: "joined", onsubmit: use }, field, el("button", { text: "Use" }));
}

export function toast(text) {
  $("toast").textContent = text;
  $("toast").classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => $("toast").classList.remove("shown"), TOAST_MS);
}

const bar = () => show($("progress"), loading || busy.waiting > 0);
busy.addEventListener("change", bar);

export function watchLoading(map) {
  let failed = false;
  map.on("dataloading", () => { if (!loading) failed = false; loading = true; bar(); });
  map.on("idle", () => { loading = false; bar(); if (!failed) trouble("tiles", null); });
  map.on("error", ({ error, sourceId }) => {
    if (!["tiles", "context"].includes(sourceId)) { console.info(`smalti: ${error?.message}`); return; }
    failed = true;
    const why = error?.status ? `the server answered ${error.status}` : "the server cannot be reached";
    trouble("tiles", { message: `Part of the map could not be drawn: ${why}.`, remedy: "Moving the map asks for it again." });
  });
}
