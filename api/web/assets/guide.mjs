// What the map waits for, told over the map itself, with buttons for fingers.

import { $, el, show } from "./dom.mjs";

let owner = "";

// guide("draw", "Click the corners", [["Finish", close]]) ; guide("draw", null) takes it away.
export function guide(who, words, buttons = []) {
  if (words === null && who !== owner) return;
  owner = words === null ? "" : who;
  show($("guide"), words !== null);
  if (words !== null) {
    $("guide").replaceChildren(el("span", { text: words }),
      ...buttons.map(([text, run]) => el("button", { type: "button", text, onclick: run })));
  }
}
