// A job that is followed: how far it is, its squares on the map, and only those tiles anew that it changed.

import * as api from "./api.mjs";
import * as blocks from "./blocks.mjs";
import { look } from "./catalogue.mjs";
import { $, count, duration, el, show } from "./dom.mjs";
import { state } from "./state.mjs";
import { notice, toast } from "./status.mjs";

const REMEMBERED = "smalti-job"; // a reload finds the job again
const LINGER_MS = 6000;
const POLL_MS = 2000;
const [SEEN_MS, LATER_MS] = [1200, 4500]; // a server looks for new blocks once a second
const OVER = ["done", "failed", "cancelled"];
let source = null;
let told = new Set(); // blocks that were done when the job told last
const listeners = [];
export const onEmbedded = (listener) => listeners.push(listener);

// Called with the squares that were embedded; with none where it is not known which.
const watchers = [];
export const onSquares = (watcher) => watchers.push(watcher);
// While a job is followed it tells which tiles are new: nothing else is asked for again until it ends.
export const following = () => Boolean(source);

// Twice, for a server that reads from afar sees a new block a little later than others.
function embedded(names) {
  for (const wait of [SEEN_MS, LATER_MS]) {
    setTimeout(() => {
      look();
      watchers.forEach((watcher) => watcher(blocks.outlines(names)));
    }, wait);
  }
}

export function follow(id) {
  sessionStorage.setItem(REMEMBERED, id);
  source?.close();
  told = new Set();
  const mine = (source = api.jobEvents(id));
  const heard = ({ data }) => data && source === mine && update(JSON.parse(data));
  mine.addEventListener("progress", heard);
  mine.addEventListener("end", heard);
  mine.addEventListener("error", () => { if (source === mine && mine.readyState === EventSource.CLOSED) poll(id, mine); });
}

// Where the stream is refused: a proxy that cuts it, or a key, which an EventSource cannot send.
function poll(id, mine) {
  if (source !== mine) return; // over, or another job is followed
  const again = () => setTimeout(poll, POLL_MS, id, mine);
  api.job(id).then((job) => { if (source === mine) update(job); again(); }, (error) => (error.status ? forget() : again()));
}

function forget() {
  sessionStorage.removeItem(REMEMBERED);
  show($("job"), false);
  blocks.leave();
}

function update(job) {
  if (!source) return; // the last progress and the end say the same
  render(job);
  blocks.follow(job);
  const done = new Set((job.blocks ?? []).filter((one) => one.state === "done").map(({ block }) => block));
  const more = [...done].filter((block) => !told.has(block));
  told = done;
  if (more.length) embedded(new Set(more));
  if (!OVER.includes(job.state)) return;
  source.close();
  source = null;
  if (job.state !== "done") return;
  sessionStorage.removeItem(REMEMBERED);
  toast(fruitless(job) ? "Nothing could be embedded." : "Embedded: it is on the map and in the search.");
  // Overviews follow the blocks: whoever listens asks for every tile that is seen again.
  setTimeout(() => look().then(() => listeners.forEach((listener) => listener())), SEEN_MS);
  if (!fruitless(job)) setTimeout(() => { if (!source) forget(); }, LINGER_MS); // else it says why: that takes time to read
}

const WORDS = { queued: "Waiting", running: "Embedding", done: "Embedded", failed: "It failed", cancelled: "Cancelled" };

// A job may end well and give nothing. Where nobody noted what became of its pixels, they are taken for embedded.
const fruitless = ({ outcome: { valid, rejected, water, empty } }) => !valid && rejected + water + empty > 0;

// Why some pixels got no vector, and what can be done.
function reasons({ outcome: { rejected, empty }, min_s2: least, window }) {
  const said = [];
  if (rejected) said.push(`Rejected: fewer than ${count(least, "usable Sentinel-2 date")} in ${window}, mostly for clouds. A longer window has more; Another window can ask for fewer.`);
  if (empty) said.push(`Never seen: no usable observation in ${window}.`);
  return said.map((text) => el("p", { class: "remedy", text }));
}

let card = null; // kept while its job runs, so that a press on Cancel never misses and keeps the focus

function buttons(job, over) {
  const refused = (error) => card.error.append(notice(error));
  const cancel = () => api.cancelJob(job.id).catch(refused);
  const retry = () => api.retryJob(job.id).then(() => follow(job.id), refused);
  const button = (text, run, kind) => el("button", { type: "button", text, class: kind, onclick: run });
  if (!over) return [button("Cancel", cancel)];
  return job.state === "done" ? [button("Close", forget)] : [button("Try again", retry, "primary"), button("Close", forget)];
}

function cardOf(job, over) {
  if (card?.id === job.id && card.over === over) return card;
  const held = $("job").contains(document.activeElement);
  const own = buttons(job, over);
  card = { id: job.id, over, title: el("h2"), progress: el("progress", { max: 1, "aria-label": "Embedding" }), hint: el("p", { class: "hint" }), error: el("div") };
  $("job").replaceChildren(el("header", {}, card.title, ...own), card.progress, card.hint, card.error);
  if (held) own[0].focus();
  return card;
}

// How many blocks are how far, in words: "3 of 12 blocks, 2 in hand, 1 failed, 20 seconds left".
function words(job, over) {
  const of = (how) => (job.blocks ?? []).filter((block) => block.state === how).length;
  const parts = [`${job.done} of ${count(job.total, "block")}`];
  if (!over && of("running")) parts.push(`${of("running")} in hand`);
  if (of("failed")) parts.push(`${of("failed")} failed`);
  if (job.outcome.rejected) parts.push(`${count(job.outcome.rejected, "pixel")} rejected`);
  if (job.outcome.empty) parts.push(`${count(job.outcome.empty, "pixel")} never seen`);
  if (!over && job.eta_s) parts.push(`${duration(job.eta_s)} left`);
  return parts.join(", ");
}

function render(job) {
  const share = job.pixels ? job.pixels_done / job.pixels : job.total ? job.done / job.total : 0;
  const over = OVER.includes(job.state);
  const idle = !over && job.eta_s === null; // nobody there to tell when it will be done
  const { title, progress, hint, error } = cardOf(job, over);
  const how = job.state === "done" && fruitless(job) ? "Nothing embedded" : WORDS[job.state] ?? job.state;
  title.textContent = `${how}: ${job.dataset} ${job.window}`;
  progress.value = job.state === "done" ? 1 : share;
  hint.textContent = words(job, over);
  const wait = idle ? el("div", { class: "notice calm" }, el("p", {}, "No worker runs: the job waits until one does. Start one with ", el("code", { text: "smalti worker" }))) : "";
  error.replaceChildren(job.error ? notice({ message: job.error }) : wait, ...reasons(job));
  show($("job"), true);
}

// After a reload: the job that was followed, or one that somebody else began here.
export function resume() {
  const id = sessionStorage.getItem(REMEMBERED);
  const mine = (job) => (["queued", "running", "failed"].includes(job.state) ? follow(job.id) : forget());
  if (id) { api.job(id).then(mine, forget); return; }
  const going = ({ dataset, state: how }) => dataset === state.dataset && (how === "queued" || how === "running");
  api.jobs().then(({ jobs }) => { const one = jobs.find(going); if (one) follow(one.id); }, () => {});
}
