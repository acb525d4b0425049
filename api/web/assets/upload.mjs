// A time series dropped on the page: embed it, then show where on the map it belongs.

import * as api from "./api.mjs";
import { current } from "./catalogue.mjs";
import { $, count, el, show } from "./dom.mjs";
import { giveVectors } from "./likeness.mjs";
import { state } from "./state.mjs";
import { notice } from "./status.mjs";

const EXAMPLE = "/web/assets/example.json";
const MOST = 16; // vectors that are examples one by one; of more, their average is

function tell(...parts) {
  $("uploading").replaceChildren(...parts);
  show($("uploading"), true);
  $("uploading").scrollIntoView({ block: "nearest" });
}

const refuse = (error) => tell(notice(error, () => show($("uploading"), false)));
const waiting = (words, value) =>
  tell(el("p", { text: words }), el("progress", { max: 1, ...(value === undefined ? {} : { value }), "aria-label": words }));

// JSON comes back as numbers, NPZ as codes and a scale.
const numbers = ({ vector, codes, scale }) => vector ?? codes.map((code) => code * scale);

// Length 1 each, then the mean: the direction they share.
function average(vectors) {
  const mean = new Float64Array(vectors[0].length);
  for (const vector of vectors) {
    const length = Math.hypot(...vector);
    vector.forEach((value, i) => { mean[i] += value / length / vectors.length; });
  }
  return [...mean];
}

// JSON is read here first: a file that is no JSON is told so, and what the dataset needs is filled in.
async function prepare(file) {
  const model = current().model.split("@")[0];
  if (/\.npz$/i.test(file.name)) return [`/embed?answer=json&model=${encodeURIComponent(model)}`, "application/x-npz", file];
  let body;
  try {
    body = JSON.parse(await file.text());
  } catch {
    throw new api.Refusal(0, { detail: `${file.name} is neither NPZ nor JSON.`, remedy: "The example shows what is expected." });
  }
  if (Array.isArray(body)) body = { pixels: body };
  return ["/embed", "application/json", JSON.stringify({ model, window: state.window, ...body })];
}

let turn = 0;

// Of several files that are sent the last one counts.
export async function send(file) {
  const mine = ++turn;
  const progress = (...said) => mine === turn && waiting(...said);
  try {
    progress(`Sending ${file.name} …`, 0);
    const [path, type, body] = await prepare(file);
    const answer = await api.upload(path, type, body, (share) =>
      share < 1 ? progress(`Sending ${file.name} …`, share) : progress("Embedding …"));
    const vectors = answer.results.filter(({ status }) => status === "valid").map(numbers);
    if (!vectors.length) throw new api.Refusal(0, { detail: `None of ${count(answer.results.length, "pixel")} could be embedded: ${answer.results[0].status}.` });
    if (mine !== turn) return;
    await giveVectors(vectors.length > MOST ? [average(vectors)] : vectors, answer.model);
    report(file, answer, vectors.length);
  } catch (error) {
    if (mine === turn) refuse(error);
  }
}

function report(file, answer, embedded) {
  const many = embedded > MOST ? " Their average is the example." : "";
  const seen = answer.results.find(({ status }) => status === "valid").counts;
  tell(el("p", { class: "good", text: `${file.name} behaves like these places.` }),
    el("p", { class: "hint", text: `${count(embedded, "pixel")} embedded by ${answer.model}; ${seen.s2} optical and ${seen.s1_asc + seen.s1_desc} radar observations${embedded > 1 ? " in the first" : ""}.${many}` }));
  $("find").scrollIntoView({ block: "nearest" });
}

async function example() {
  const response = await fetch(EXAMPLE);
  send(new File([await response.blob()], "example.json"));
}

export function wire() {
  $("choose-file").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { if ($("file").files[0]) send($("file").files[0]); $("file").value = ""; });
  $("try-example").addEventListener("click", example);
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => { if (files(event)) { event.preventDefault(); show($("drop"), Boolean(current())); } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) show($("drop"), false); });
  addEventListener("drop", (event) => {
    show($("drop"), false);
    if (!files(event)) return;
    event.preventDefault(); // or the browser would leave the page for the file
    const [file, ...more] = event.dataTransfer.files;
    if (!file || !current()) return;
    if (more.length) refuse(new api.Refusal(0, { detail: `These are ${more.length + 1} files.`, remedy: "One file at a time: it may hold many pixels." }));
    else send(file);
  });
}
