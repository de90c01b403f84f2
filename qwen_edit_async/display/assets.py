"""The style and the script of the gallery's page, which needs nothing else and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --line: #d9dce1; --text: #1c2024; --soft: #5b6470;
  --accent: #2257c4; --bad: #b3261e; --bad-soft: #fbe9e7; --mat: #e6e8ec; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1e2227; --line: #343a42; --text: #e8eaed;
  --soft: #a3acb8; --accent: #8ab4ff; --bad: #ffb4ab; --bad-soft: #3b1f1d; --mat: #2a2f36; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
header { padding: 1.5rem 1.5rem .5rem; }
h1 { margin: 0 0 .75rem; font-size: 1.5rem; overflow-wrap: anywhere; }
.summary { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0; }
.summary dt { color: var(--soft); font-size: .8rem; }
.summary dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.tools { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .75rem 1.25rem; align-items: center;
  padding: .75rem 1.5rem; background: var(--page); border-bottom: 1px solid var(--line); }
.tools input[type=search] { width: min(26rem, 60vw); padding: .45rem .7rem; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--soft); border-radius: 6px; }
.tools output, .hint { color: var(--soft); }
.hint { margin-left: auto; font-size: .85rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
main { padding: 1rem 1.5rem 3rem; }
.loaded main, .group { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr));
  gap: 1rem; }
.group { margin-bottom: 1rem; content-visibility: auto; contain-intrinsic-height: auto 500rem; }
.loaded .group { display: contents; }
.card { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden; content-visibility: auto; contain-intrinsic-size: auto 17rem auto 27rem; }
.compare { position: relative; aspect-ratio: 1; background: var(--mat); --at: 50%; }
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.compare .after { clip-path: inset(0 0 0 var(--at)); background: var(--mat); }
.compare.single .after { clip-path: none; }
.compare .divider { position: absolute; inset: 0 auto 0 var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }
.compare .divider::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 1.9rem; height: 1.9rem;
  transform: translate(-50%, -50%); display: grid; place-items: center; border-radius: 50%; background: #fff;
  color: #1c2024; box-shadow: 0 0 3px #000; }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.compare:has(input:focus-visible) { outline: 3px solid var(--accent); outline-offset: -3px; }
.compare .side { position: absolute; bottom: .4rem; padding: 0 .4rem; border-radius: 4px; font-size: .75rem;
  color: #fff; background: #000a; pointer-events: none; }
.compare .side.left { left: .4rem; } .compare .side.right { right: .4rem; }
.compare .missing { position: absolute; inset: 0; display: grid; place-items: center; color: var(--soft); }
.strip { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; padding: .5rem .8rem 0; margin: 0;
  list-style: none; }
.strip button { display: block; padding: 0; border: 2px solid transparent; border-radius: 5px; background: none;
  cursor: pointer; }
.strip button[aria-pressed=true] { border-color: var(--accent); }
.strip img { display: block; width: 2.4rem; height: 2.4rem; object-fit: cover; border-radius: 3px; }
.strip .arrow { color: var(--soft); }
.text { padding: .6rem .8rem .8rem; }
h2 { margin: 0; font-size: .85rem; font-weight: 600; }
h2 button { padding: 0; border: 0; background: none; color: var(--accent); font: inherit; text-align: start;
  overflow-wrap: anywhere; cursor: pointer; }
h2 button:hover { text-decoration: underline; }
.instruction { margin: .25rem 0 .5rem; overflow-wrap: anywhere; white-space: pre-line; }
main .instruction { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.error { margin: 0 0 .5rem; padding: .35rem .6rem; border-radius: 6px; color: var(--bad); background: var(--bad-soft);
  overflow-wrap: anywhere; white-space: pre-line; }
main .error { max-height: 7rem; overflow: auto; font-size: .85rem; }
.facts { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 0; font-size: .8rem; }
.facts div { display: flex; gap: .35rem; min-width: 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.files { margin: .5rem 0 0; font-size: .85rem; } .files a { color: var(--accent); margin-right: .8rem; }
main .files { display: none; }
.nothing { padding: 3rem 1.5rem; text-align: center; color: var(--soft); }
dialog { width: min(76rem, 96vw); max-width: none; max-height: 96vh; padding: 0; border: 1px solid var(--line);
  border-radius: 12px; background: var(--card); color: inherit; }
dialog::backdrop { background: #000b; }
dialog nav { display: flex; gap: .5rem; padding: .6rem .8rem; border-bottom: 1px solid var(--line); }
dialog nav button { padding: .35rem .8rem; border: 1px solid var(--line); border-radius: 6px; background: var(--page);
  color: inherit; font: inherit; cursor: pointer; }
dialog nav button:last-child { margin-left: auto; }
dialog .card { border: 0; border-radius: 0; content-visibility: visible; }
dialog .compare { aspect-ratio: auto; height: min(66vh, 70rem); }
dialog .text { font-size: 1rem; } dialog .facts { font-size: .9rem; }
"""

SCRIPT: Final = """
"use strict";
const $ = (selector) => document.querySelector(selector);
const cards = () => [...document.querySelectorAll("main .card")];
const shown = () => cards().filter((card) => !card.hidden);
const words = new WeakMap();
let current = null;

function wordsOf(card) {
  if (!words.has(card)) words.set(card, card.querySelector(".text").textContent.toLowerCase());
  return words.get(card);
}

function filter() {
  const wanted = $("#search").value.toLowerCase().split(/\\s+/).filter(Boolean);
  const failed = $("#failed").checked;
  let count = 0, total = 0;
  for (const card of cards()) {
    const fits = (!failed || card.classList.contains("failed")) && wanted.every((word) => wordsOf(card).includes(word));
    card.hidden = !fits;
    count += fits;
    total += 1;
  }
  $("#count").value = count === total ? `${total} edits` : `${count} of ${total} edits`;
  $(".nothing").hidden = count > 0;
}

function pick(button) {
  const card = button.closest(".card");
  const kind = button.dataset.kind;
  for (const other of card.querySelectorAll(`.strip [data-kind=${kind}]`)) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  const small = button.querySelector("img"), large = card.querySelector(`.compare .${kind}`);
  large.src = small.src;
  large.dataset.full = button.dataset.full || "";
  if (card.closest("dialog")) sharpen(large);
}

function sharpen(picture) {
  const full = picture.dataset.full;
  if (!full) return;
  const file = new Image();
  file.onload = () => { if (picture.dataset.full === full) picture.src = file.src; };
  file.src = full;
}

function view(card) {
  current = card;
  const copy = card.cloneNode(true);
  copy.hidden = false;
  copy.style.setProperty("--at", "50%");
  const title = copy.querySelector("h2");
  title.textContent = title.textContent;
  $("#viewed").replaceChildren(copy);
  copy.querySelectorAll(".compare img").forEach(sharpen);
  const dialog = $("dialog");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.setAttribute("aria-label", title.textContent);
}

function step(change) {
  const list = shown();
  if (!list.length) return;
  const dialog = $("dialog");
  const from = dialog.open ? current : document.activeElement.closest(".card");
  const at = list.indexOf(from);
  const next = list[at < 0 ? (change > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + change, 0), list.length - 1)];
  if (dialog.open) {
    if (next !== current) view(next);
  } else {
    next.querySelector("h2 button").focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

document.addEventListener("input", (event) => {
  if (event.target.matches(".compare input")) {
    event.target.parentElement.style.setProperty("--at", `${event.target.value}%`);
  } else if (event.target.closest(".tools")) {
    filter();
  }
});
document.addEventListener("change", (event) => {
  // After dragging with the mouse the arrow keys go from edit to edit again; with Tab they move the slider.
  if (event.target.matches(".compare input:not(:focus-visible)")) event.target.blur();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target.matches("dialog")) $("dialog").close();
  else if (!button) return;
  else if (button.matches("h2 button")) view(button.closest(".card"));
  else if (button.matches(".strip button")) pick(button);
  else if (button.id === "previous") step(-1);
  else if (button.id === "next") step(1);
  else if (button.id === "close") $("dialog").close();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (event.target.matches("input[type=search], input[type=range]")) return;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
  }
});
document.addEventListener("DOMContentLoaded", () => {
  $("dialog").addEventListener("close", () => {
    if (current) current.querySelector("h2 button").focus();
    $("#viewed").replaceChildren();
  });
  document.body.classList.add("loaded");
  filter();
});
"""


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "img-src data: 'self'",
        f"style-src {_source_hash(STYLE)}",
        f"script-src {_source_hash(SCRIPT)}",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""No network: embedded pictures, and those that lie beside the page."""
