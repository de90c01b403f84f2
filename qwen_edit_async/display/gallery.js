// The script of the gallery page. gallery.py puts it into the page, so it must not contain an end tag.
"use strict";

const $ = (selector) => document.querySelector(selector);
const cards = () => [...document.querySelectorAll("main .card")];
const shown = () => cards().filter((card) => !card.hidden);
const words = new WeakMap();  // each card's text in lower case, stored when the card is first filtered
let current = null;           // the card that is open in the dialog

function wordsOf(card) {
  if (!words.has(card)) words.set(card, card.querySelector(".text").textContent.toLowerCase());
  return words.get(card);
}

function filter() {
  const wanted = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const failed = $("#failed").checked;
  let count = 0, total = 0;
  for (const card of cards()) {
    const fits = (!failed || card.classList.contains("failed")) && wanted.every((word) => wordsOf(card).includes(word));
    card.hidden = !fits;
    count += fits;
    total += 1;
  }
  const edits = total === 1 ? "edit" : "edits";
  $("#count").value = count === total ? `${total} ${edits}` : `${count} of ${total} ${edits}`;
  $(".nothing").hidden = count > 0;
}

// Show another input or output in the comparison.
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

// Replace a thumbnail with the full picture once it is loaded.
function sharpen(picture) {
  const full = picture.dataset.full;
  if (!full) return;
  const file = new Image();
  file.onload = () => { if (picture.dataset.full === full) picture.src = file.src; };
  file.src = full;
}

// Open a card in the dialog.
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

// Go to the next card (1) or the previous one (-1).
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
  // After a slider is dragged with the mouse, the arrow keys select edits again.
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
