"use strict";

const table = document.getElementById("leaderboard");
const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
const filter = document.getElementById("filter");
const buttons = [...document.querySelectorAll("[data-show]")];

const isModel = (row) => row.cells.length === headers.length;

/** Compares two cells; one without a value stays last in either order. */
function compare(left, right, order) {
  const [a, b] = [left.dataset.value, right.dataset.value];
  if (a === "" || b === "") return (a === "") - (b === "");
  const difference = left.tagName === "TH" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return order === "ascending" ? difference : -difference;
}

function sortBy(header) {
  const opposite = { ascending: "descending", descending: "ascending", none: header.dataset.first };
  const order = opposite[header.getAttribute("aria-sort")];
  for (const other of headers) other.setAttribute("aria-sort", other === header ? order : "none");
  // Published rows have a body of their own: they are sorted, but never among the measured ones.
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter(isModel);
    rows.sort((a, b) => compare(a.cells[header.cellIndex], b.cells[header.cellIndex], order));
    body.append(...rows);
  }
}

for (const header of headers) header.firstElementChild.addEventListener("click", () => sortBy(header));

/** Shows the models whose names hold every word; a body that has none of them goes with its title. */
function showModels() {
  const sought = filter.value.trim().toLowerCase().split(/\s+/);
  const fits = (row) => sought.every((word) => row.cells[0].textContent.toLowerCase().includes(word));
  const models = [...table.tBodies].flatMap((body) => [...body.rows].filter(isModel));
  for (const row of models) row.hidden = !fits(row);
  for (const body of table.tBodies) body.hidden = [...body.rows].filter(isModel).every((row) => row.hidden);
  const shown = models.filter((row) => !row.hidden).length;
  document.getElementById("shown").textContent = `${shown} of ${models.length} models`;
}

/** Shows the tasks of one kind, or all where none is named. */
function showTasks(kind) {
  for (const cell of table.querySelectorAll("[data-kind]")) cell.hidden = Boolean(kind) && cell.dataset.kind !== kind;
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.show === kind);
}

filter.addEventListener("input", showModels);
filter.form.addEventListener("submit", (event) => event.preventDefault());
for (const button of buttons) button.addEventListener("click", () => showTasks(button.dataset.show));
showModels();

/** Puts a tip below its number; it is fixed to the window, or the scrolling table would clip it. */
function showTip(anchor, tip) {
  tip.hidden = false;
  const place = anchor.getBoundingClientRect();
  const right = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(place.left, right))}px`;
  tip.style.top = `${place.bottom + 4}px`;
}

for (const anchor of document.querySelectorAll("[aria-describedby]")) {
  const tip = document.getElementById(anchor.getAttribute("aria-describedby"));
  const hide = () => { tip.hidden = true; };
  anchor.addEventListener("pointerenter", () => showTip(anchor, tip));
  anchor.addEventListener("focus", () => showTip(anchor, tip));
  anchor.addEventListener("pointerleave", hide);
  anchor.addEventListener("blur", hide);
  anchor.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
