"use strict";

const CHUNK = 50; // About two screens: a page of a hundred thousand samples opens as fast as one of fifty.

const samples = JSON.parse(document.getElementById("data").textContent);
const told = samples.map(({ verdict, value, ...texts }) => Object.values(texts).join("\n").toLowerCase());
const list = document.getElementById("samples");
const filter = document.getElementById("filter");
const more = document.getElementById("more");
const buttons = [...document.querySelectorAll("[data-verdict]")];

const observer = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) drawMore();
}, { rootMargin: "1000px" });

let verdict = "";
let found = [];
let drawn = 0;

function card(sample) {
  const made = element("li", sample.verdict, "");
  const source = [sample.id, sample.image].filter((name) => name !== undefined).join(" · ");
  const asked = element("div", "asked", "", element("p", "fine", source), element("p", "said", sample.prompt ?? ""));
  const answered = element("div", "answered", "", element("p", "said", sample.text ?? ""));
  answered.append(fact("Failed", sample.error), fact("Read as", sample.extracted), fact("Expected", sample.label));
  const judged = element("div", "judged", "", element("p", "verdict", sample.verdict));
  judged.append(fact("Value", sample.value), fact("Reason", sample.reason), fact("Group", sample.group));
  made.append(asked, answered, judged);
  return made;
}

function drawMore() {
  list.append(...found.slice(drawn, drawn + CHUNK).map((index) => card(samples[index])));
  drawn = Math.min(drawn + CHUNK, found.length);
  // Watching afresh reports again, should the end of the list still be in sight.
  observer.disconnect();
  if (drawn < found.length) observer.observe(more);
}

const count = (number) => number.toLocaleString("en");

function apply() {
  const sought = filter.value.trim().toLowerCase().split(/\s+/);
  const fits = (index) => sought.every((word) => told[index].includes(word));
  found = [...samples.keys()].filter((i) => (!verdict || samples[i].verdict === verdict) && fits(i));
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.verdict === verdict);
  document.getElementById("shown").textContent = `${count(found.length)} of ${count(samples.length)} samples`;
  list.replaceChildren();
  drawn = 0;
  drawMore();
}

/** The address keeps the choice, so that a link can point at the unscored ones. */
function choose(wanted) {
  verdict = buttons.some((button) => button.dataset.verdict === wanted) ? wanted : "";
  history.replaceState(null, "", verdict ? `#${verdict}` : location.pathname + location.search);
  apply();
}

for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.verdict));
window.addEventListener("hashchange", () => choose(location.hash.slice(1)));
filter.addEventListener("input", apply);
filter.form.addEventListener("submit", (event) => event.preventDefault());
choose(location.hash.slice(1));
