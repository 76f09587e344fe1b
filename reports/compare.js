"use strict";

const CHUNK = 50; // About two screens.

const flips = JSON.parse(document.getElementById("data").textContent);
const told = flips.map((flip) => Object.values(flip).join("\n").toLowerCase());
const list = document.getElementById("samples");
const filter = document.getElementById("filter");
const more = document.getElementById("more");
const buttons = [...document.querySelectorAll("[data-choice]")];

const observer = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) drawMore();
}, { rootMargin: "1000px" });

let choice = "";
let found = [];
let drawn = 0;

function card(flip) {
  const made = element("li", flip.direction === "gained" ? "right" : "wrong", "");
  const source = [flip.task, flip.id, flip.image].filter((name) => name !== undefined).join(" · ");
  const asked = element("div", "asked", "", element("p", "fine", source), element("p", "said", flip.prompt ?? ""));
  const answered = element("div", "answered", "");
  answered.append(fact("First", flip.first), fact("Second", flip.second), fact("Expected", flip.label));
  const judged = element("div", "judged", "", element("p", "verdict", flip.direction), fact("Value", flip.values));
  made.append(asked, answered, judged);
  return made;
}

function drawMore() {
  list.append(...found.slice(drawn, drawn + CHUNK).map((index) => card(flips[index])));
  drawn = Math.min(drawn + CHUNK, found.length);
  // Watching afresh reports again, should the end of the list still be in sight.
  observer.disconnect();
  if (drawn < found.length) observer.observe(more);
}

const count = (number) => number.toLocaleString("en");

function apply() {
  const sought = filter.value.trim().toLowerCase().split(/\s+/);
  const fits = (index) => sought.every((word) => told[index].includes(word));
  const chosen = (flip) => !choice || `${flip.task}/${flip.direction}` === choice;
  found = [...flips.keys()].filter((index) => chosen(flips[index]) && fits(index));
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.choice === choice);
  document.getElementById("shown").textContent = `${count(found.length)} of ${count(flips.length)} samples`;
  list.replaceChildren();
  drawn = 0;
  drawMore();
}

/** The address keeps the choice, so that the table's numbers can point at their samples. */
function choose(wanted) {
  choice = buttons.some((button) => button.dataset.choice === wanted) ? wanted : "";
  history.replaceState(null, "", choice ? `#${choice}` : location.pathname + location.search);
  apply();
}

for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.choice));
window.addEventListener("hashchange", () => {
  choose(location.hash.slice(1));
  document.getElementById("flips-title").scrollIntoView();
});
filter.addEventListener("input", apply);
filter.form.addEventListener("submit", (event) => event.preventDefault());
choose(location.hash.slice(1));
