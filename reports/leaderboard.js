"use strict";

const table = document.getElementById("leaderboard");
const headers = [...table.tHead.rows[0].cells];

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
    const rows = [...body.rows].filter((row) => row.cells.length === headers.length);
    rows.sort((a, b) => compare(a.cells[header.cellIndex], b.cells[header.cellIndex], order));
    body.append(...rows);
  }
}

for (const header of headers) header.firstElementChild.addEventListener("click", () => sortBy(header));

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
