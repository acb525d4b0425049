// Talks to the server. Every refusal becomes a Refusal that says what the server said.

export class Refusal extends Error {
  constructor(status, problem) {
    super([problem.field, problem.detail ?? `The server answered ${status}.`].filter(Boolean).join(": "));
    Object.assign(this, { status, remedy: problem.remedy ?? "", kind: problem.kind ?? "" });
  }
}

// How many answers are waited for: the thin bar at the top shows it.
export const busy = Object.assign(new EventTarget(), { waiting: 0 });
function wait(step) {
  busy.waiting += step;
  busy.dispatchEvent(new Event("change"));
}

const KEY = "smalti-key";
export const keep = (key) => sessionStorage.setItem(KEY, key);
export const headers = () => (sessionStorage.getItem(KEY) ? { "X-API-Key": sessionStorage.getItem(KEY) } : {});

async function ask(path, { quiet = false, ...request } = {}) {
  if (!quiet) wait(1);
  try {
    const response = await fetch(path, { ...request, headers: { ...headers(), ...request.headers } });
    if (response.ok) return response.status === 204 ? null : await response.json();
    throw new Refusal(response.status, await response.json().catch(() => ({})));
  } catch (error) {
    if (error instanceof TypeError) throw new Refusal(0, { detail: "The server cannot be reached.", remedy: "Is it still running?" });
    throw error;
  } finally {
    if (!quiet) wait(-1);
  }
}

const post = (path, body, more = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...more });
const at = (dataset, window) => `/datasets/${encodeURIComponent(dataset)}/${encodeURIComponent(window)}`;

export const settings = () => ask("/page.json", { quiet: true });
const first = ask("/datasets", { quiet: true });
first.catch(() => {}); // whoever asks is told
let asked = false;
export const datasets = () => (asked ? ask("/datasets", { quiet: true }) : ((asked = true), first));
// The map waits a moment for the datasets: then its first frame asks for tiles already, a software-drawn frame earlier.
export const soon = Promise.race([first.catch(() => null), new Promise((resolve) => setTimeout(resolve, 800))]);
export const bases = (dataset) => ask(`/bases?dataset=${encodeURIComponent(dataset)}`, { quiet: true });
export const basis = (dataset, id) => ask(`/bases/${id}?dataset=${encodeURIComponent(dataset)}`, { quiet: true });
export const fitBasis = (dataset, more = {}) => post("/bases", { dataset, ...more });
export const legend = (dataset, window, view) => ask(`${at(dataset, window)}/legend?${view}`, { quiet: true });
export const vectors = (dataset, window, points) => post(`${at(dataset, window)}/vectors`, { points });
export const search = (dataset, window, body, signal) => post(`${at(dataset, window)}/search`, body, { signal });
export const measure = (dataset, window, body, signal) => post(`${at(dataset, window)}/search/areas`, body, { signal, quiet: true });
export const saveQuery = (body, signal) => post("/queries", body, { signal });
export const query = (id) => ask(`/queries/${encodeURIComponent(id)}`);
export const askArea = (body) => post("/areas", body);
export const missing = (dataset, window, bbox) => ask(`${at(dataset, window)}/missing?bbox=${bbox}`, { quiet: true });
export const jobBlocks = (id) => ask(`/jobs/${encodeURIComponent(id)}/blocks`, { quiet: true });
export const retryJob = (id) => ask(`/jobs/${encodeURIComponent(id)}/retry`, { method: "POST" });
export const jobs = () => ask("/jobs", { quiet: true });
export const job = (id) => ask(`/jobs/${encodeURIComponent(id)}`, { quiet: true });
export const cancelJob = (id) => ask(`/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
export const jobEvents = (id) => new EventSource(`/jobs/${encodeURIComponent(id)}/events`);

export const tiles = (dataset, window, view) =>
  `${location.origin}${at(dataset, window)}/tiles/WebMercatorQuad/{z}/{x}/{y}.png?tilesize=256&${view}`;

// XMLHttpRequest, because fetch does not tell how much of a body has been sent.
export function upload(path, type, body, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    for (const [name, value] of Object.entries({ ...headers(), "Content-Type": type })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (e) => e.lengthComputable && onSent(e.loaded / e.total));
    request.addEventListener("load", () =>
      request.status < 300 ? resolve(request.response) : reject(new Refusal(request.status, request.response ?? {})));
    request.addEventListener("error", () => reject(new Refusal(0, { detail: "The upload broke off.", remedy: "Try again." })));
    request.addEventListener("loadend", () => wait(-1));
    wait(1);
    request.send(body);
  });
}
