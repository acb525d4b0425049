// Making embeddings that are missing: an estimate first, then a job whose progress is shown, then only new tiles.

import * as api from "./api.mjs";
import { look } from "./catalogue.mjs";
import { $, count, duration, el, show } from "./dom.mjs";
import { state } from "./state.mjs";
import { notice, toast } from "./status.mjs";

const NEAR = 0.0002; // degrees: the block that holds the point, and no neighbour unless it lies on the edge
const REMEMBERED = "smalti-job"; // a reload finds the job again
const LINGER_MS = 6000;
const POLL_MS = 2000;
let source = null;
let shown = 0;
const listeners = [];
export const onEmbedded = (listener) => listeners.push(listener);

// What can be done about an empty pixel: embed it here where the dataset knows where scenes come from.
// `card` is this pixel's own: an answer that comes late goes into a card that nobody sees any more.
export async function offer(card, dataset, [lon, lat], status) {
  if (status === "water" || status === "rejected") return;
  if (!dataset.source || !dataset.writable) {
    card.append(el("p", { class: "remedy", text: dataset.writable
      ? "This dataset has no source of scenes. Upload a time series with its place, and it is stored."
      : "This dataset can only be read." }));
    return;
  }
  const body = { dataset: dataset.id, window: state.window, bbox: [lon - NEAR, lat - NEAR, lon + NEAR, lat + NEAR] };
  try {
    const plan = await api.askArea({ ...body, dry_run: true });
    if (!plan.blocks_left) return;
    const words = plan.workers === 0 ? "It waits until a worker runs: smalti worker"
      : `${count(plan.blocks_left, "block")}, ${count(plan.pixels_left, "pixel")}, about ${duration(plan.seconds)}`;
    const begin = el("button", { type: "button", class: "primary", text: "Embed here", onclick: () => start(body, begin) });
    card.append(el("div", { class: "offer" }, begin, el("span", { class: "hint", text: words })));
  } catch (error) {
    card.append(notice(error));
  }
}

async function start(body, button) {
  button.disabled = true;
  try {
    follow((await api.askArea(body)).id);
  } catch (error) {
    button.disabled = false;
    button.parentElement.after(notice(error));
  }
}

export function follow(id) {
  sessionStorage.setItem(REMEMBERED, id);
  source?.close();
  shown = 0;
  const mine = (source = api.jobEvents(id));
  const told = ({ data }) => data && source === mine && update(JSON.parse(data));
  mine.addEventListener("progress", told);
  mine.addEventListener("end", told);
  mine.addEventListener("error", () => { if (source === mine && mine.readyState === EventSource.CLOSED) poll(id, mine); });
}

// Where the stream is refused: a proxy that cuts it, or a key, which an EventSource cannot send.
function poll(id, mine) {
  if (source !== mine) return; // over, or another job is followed
  const again = () => setTimeout(poll, POLL_MS, id, mine);
  api.job(id).then((job) => { if (source === mine) update(job); again(); }, (error) => (error.status ? forget() : again()));
}

const forget = () => { sessionStorage.removeItem(REMEMBERED); show($("job"), false); };

function update(job) {
  if (!source) return; // the last progress and the end say the same
  render(job);
  if (job.done > shown || job.state === "done") {
    shown = job.done;
    look(); // the revision has moved: new blocks show at once
  }
  if (job.state === "done") {
    toast("Embedded: it is on the map and in the search.");
    listeners.forEach((listener) => listener());
    setTimeout(() => { if (!source) forget(); }, LINGER_MS);
  }
  if (["done", "failed", "cancelled"].includes(job.state)) {
    sessionStorage.removeItem(REMEMBERED);
    source.close();
    source = null;
  }
}

const WORDS = { queued: "Waiting for a worker", running: "Embedding", done: "Embedded", failed: "It failed", cancelled: "Cancelled" };

let card = null; // kept while its job runs, so that a press on Cancel never misses and keeps the focus

function cardOf(job, over) {
  if (card?.id === job.id && card.over === over) return card;
  const cancel = () => api.cancelJob(job.id).catch((error) => $("job").append(notice(error)));
  const button = el("button", { type: "button", text: over ? "Close" : "Cancel", onclick: over ? forget : cancel });
  const held = $("job").contains(document.activeElement);
  card = { id: job.id, over, title: el("h2"), progress: el("progress", { max: 1, "aria-label": "Embedding" }), hint: el("p", { class: "hint" }), error: el("div") };
  $("job").replaceChildren(el("header", {}, card.title, button), card.progress, card.hint, card.error);
  if (held) button.focus();
  return card;
}

function render(job) {
  const share = job.pixels ? job.pixels_done / job.pixels : job.total ? job.done / job.total : 0;
  const over = ["done", "failed", "cancelled"].includes(job.state);
  const left = !over && job.eta_s ? `, ${duration(job.eta_s)} left` : "";
  const { title, progress, hint, error } = cardOf(job, over);
  title.textContent = `${WORDS[job.state] ?? job.state}: ${job.dataset} ${job.window}`;
  progress.value = job.state === "done" ? 1 : share;
  hint.textContent = `${job.done} of ${count(job.total, "block")}${left}`;
  error.replaceChildren(job.error ? notice({ message: job.error }) : "");
  show($("job"), true);
}

export function resume() {
  const id = sessionStorage.getItem(REMEMBERED);
  if (id) api.job(id).then((job) => (["queued", "running"].includes(job.state) ? follow(id) : forget()), forget);
}
