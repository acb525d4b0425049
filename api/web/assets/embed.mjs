// Making embeddings that are missing: of one square, of an area that one draws, of what is in view. First an estimate.

import * as api from "./api.mjs";
import { can, chooseWindow, current, holds, lastYear } from "./catalogue.mjs";
import { $, bytes, count, duration, el, show } from "./dom.mjs";
import * as draw from "./draw.mjs";
import { follow } from "./job.mjs";
import { easternOf, seen } from "./map.mjs";
import { geometry, unrolled } from "./ring.mjs";
import { on, state } from "./state.mjs";
import { notice } from "./status.mjs";

const NEAR = 0.0002; // degrees: the block that holds the point, and no neighbour unless it lies on the edge
const REJECTED = "Made anew it would be rejected again, unless Another window asks for fewer dates.";
const UNSEEN = "Its square was made, and no satellite saw this pixel in this window.";
let turn = 0;

const idOf = (address) => address.split("/").at(-1);

// What can be done about an empty pixel: embed it here where the dataset knows where scenes come from.
// `card` is this pixel's own: an answer that comes late goes into a card that nobody sees any more.
export async function offer(card, dataset, [lon, lat], { status, reason, job }) {
  if (reason === "embedding") {
    card.append(el("div", { class: "offer" }, el("button", { type: "button", text: "Show the job", onclick: () => follow(idOf(job)) })));
    return;
  }
  if (status === "water" || (status === "rejected" && !can(dataset))) return;
  if (!can(dataset)) {
    card.append(el("p", { class: "remedy", text: dataset.writable
      ? "This dataset has no source of scenes. Upload a time series with its place, and it is stored."
      : "This dataset can only be read." }));
    return;
  }
  if (reason === "outside") return;
  await estimate(card, { bbox: [lon - NEAR, lat - NEAR, lon + NEAR, lat + NEAR] }, "Embed here", status === "rejected" ? REJECTED : UNSEEN);
}

// Least number of usable Sentinel-2 dates, where somebody said one.
const least = () => ($("make-least").value ? { min_s2: Number($("make-least").value) } : {});

// What it takes, and a button that begins it. Nothing where nothing is left to do, or nothing would come of it.
async function estimate(card, place, text, done = "All of it is embedded already.") {
  const { source } = current();
  const body = { dataset: state.dataset, window: state.window, ...least(), ...place };
  try {
    const plan = await api.askArea({ ...body, dry_run: true });
    const idle = !plan.blocks_left ? done : source === "scenes" && !plan.scenes ? `Its catalogue has no scenes of this place in ${plan.window}.` : null;
    if (idle !== null) { card.append(el("p", { class: "hint", text: idle })); return; }
    const begin = el("button", { type: "button", class: "primary", text, onclick: () => start(body, begin) });
    card.append(el("div", { class: "offer" }, begin, el("span", { class: "hint" }, takes(plan))), ...doubts(plan));
  } catch (error) {
    card.append(notice(error));
  }
}

function takes(plan) {
  const parts = [count(plan.blocks_left, "block"), count(plan.pixels_left, "pixel")];
  if (plan.scenes) parts.push(`${count(plan.scenes, "scene")}, ${bytes(plan.bytes)} to fetch`);
  return `${parts.join(", ")}, about ${duration(plan.seconds)}${plan.measured ? "" : " (a guess: nothing was embedded here yet)"}`;
}

function doubts(plan) {
  const said = [];
  if (plan.workers === 0) said.push(el("p", { class: "remedy" }, "No worker runs now: it waits until one does. Start one with ", el("code", { text: "smalti worker" })));
  if (plan.outside_training) {
    said.push(el("p", { class: "remedy", text: "Not a calendar year: the model was not trained on such windows. "
      + `Pixels with fewer than ${count(plan.min_s2, "usable Sentinel-2 date")} in it are rejected.` }));
  }
  if (plan.blocks_left < plan.blocks) said.push(el("p", { class: "hint", text: `${count(plan.blocks - plan.blocks_left, "block")} of it are embedded already.` }));
  return said;
}

async function start(body, button) {
  button.disabled = true;
  try {
    follow((await api.askArea(body)).id);
    close();
  } catch (error) {
    button.disabled = false;
    button.parentElement.after(notice(error));
  }
}

// An area as a whole
function close() {
  turn++;
  draw.hold([]);
  show($("plan"), false);
  $("plan").replaceChildren();
}

export async function plan(title, place) {
  const mine = ++turn;
  const card = el("div");
  $("plan").replaceChildren(el("header", {}, el("h3", { text: title }), el("button", { type: "button", text: "Not now", onclick: close })), card);
  show($("plan"), true);
  $("make").scrollIntoView({ block: "nearest" });
  const found = el("div");
  await estimate(found, place, "Embed it");
  if (mine !== turn) return;
  card.replaceWith(found);
  $("plan").scrollIntoView({ block: "nearest" });
}

function drawn(ring) {
  draw.hold(unrolled(ring));
  plan("The area you drew", { geometry: geometry(ring) });
}

function inView() {
  const bbox = seen();
  const [[west, south, , north], east] = [bbox, easternOf(bbox)];
  draw.hold([[west, south], [east, south], [east, north], [west, north]]);
  plan("What is in view", { bbox });
}

export const drawArea = () => draw.start({ words: "Set the corners of the area to embed.", done: drawn });
export const embedRing = (ring) => drawn(ring);

// Where the dataset can be added to, the panel says how; a dataset or window that holds nothing yet begins there.
export function render() {
  const dataset = current();
  show($("make"), can(dataset));
  document.body.classList.toggle("bare", Boolean(dataset) && !holds());
  if (!can(dataset)) return;
  const nothing = !dataset.windows.length;
  $("make-title").textContent = nothing ? "An empty dataset" : holds() ? "Not embedded yet" : `Nothing in ${state.window} yet`;
  $("make-hint").textContent = nothing
    ? `${dataset.title} knows where its scenes come from and holds nothing yet. Zoom to a place you care about, then embed it for ${state.window}.`
    : holds() ? "Dashed squares hold nothing yet: click into one, or name an area." : "This window begins with the first area that is embedded.";
}

function wireWindow() {
  const [form, from, to] = [$("make-when"), $("make-from"), $("make-to")];
  $("make-window").addEventListener("click", () => {
    show(form, form.hidden);
    $("make-window").setAttribute("aria-expanded", String(!form.hidden));
    const year = /^\d{4}$/.test(state.window) ? state.window : lastYear();
    if (!from.value) [from.value, to.value] = [`${year}-05-01`, `${year}-09-30`];
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const year = from.value.slice(0, 4);
    const whole = from.value === `${year}-01-01` && to.value === `${year}-12-31`;
    chooseWindow(whole ? year : `${from.value}..${to.value}`);
    show(form, false);
    $("make-window").setAttribute("aria-expanded", "false");
  });
  const least = () => { to.min = from.value; };
  from.addEventListener("change", least);
}

export function wire() {
  $("make-draw").addEventListener("click", drawArea);
  $("make-view").addEventListener("click", inView);
  wireWindow();
  on(["dataset", "window"], () => { close(); render(); });
}
