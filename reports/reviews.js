"use strict";

const questions = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const told = questions.map((question) => textsOf(question).join("\n").toLowerCase());
const list = document.getElementById("reviews");
const filter = document.getElementById("filter");
const kinds = ["category", "winner"];
const chosen = { category: "", winner: "" };
const buttonsOf = (kind) => [...document.querySelectorAll(`[data-${kind}]`)];

/** What a search looks through: the texts of a card, without the names of their fields. */
function textsOf({ id, category, image, question, context, sides, reviews }) {
  const answers = sides.flatMap(({ name, text }) => [name, text]);
  const judgements = reviews.flatMap(({ by, said, flags }) => [by, said, flags]);
  return [id, category, image, question, context, ...answers, ...judgements];
}

/** A text behind a line that opens it. */
function folded(title, ...children) {
  return element("details", "", "", element("summary", "", title), ...children);
}

function picture(question) {
  if (!(question.image in pictures)) return "";
  const made = element("img", "picture", "");
  made.src = pictures[question.image];
  made.alt = `Picture ${question.image}`;
  return made;
}

function side({ name, score, text }, winner) {
  const head = element("h2", "", `${name} `, element("span", "number", score ?? "–"));
  return element("section", name === winner ? "best" : "", "", head, element("p", "said", text ?? ""));
}

function judged({ by, scores, said, flags }) {
  const flagged = flags === null ? "" : element("p", "remark", `Flagged: ${flags}`);
  return folded(`${by}: ${scores ?? "not readable"}`, flagged, element("p", "said", said ?? ""));
}

function card(question) {
  const source = [question.id, question.category, question.image, `won by ${question.winner}`];
  const fine = element("p", "fine", source.filter((part) => part !== null).join(" · "));
  const asked = element("p", "said", question.question ?? "");
  const context = question.context === null ? "" : folded("The picture in words", element("p", "said", question.context));
  const sides = element("div", "sides", "", ...question.sides.map((each) => side(each, question.winner)));
  return element("li", "", "", fine, picture(question), asked, context, sides, ...question.reviews.map(judged));
}

const count = (number) => number.toLocaleString("en");

function apply() {
  const sought = filter.value.trim().toLowerCase().split(/\s+/);
  const fits = (question, index) =>
    kinds.every((kind) => !chosen[kind] || question[kind] === chosen[kind]) && sought.every((word) => told[index].includes(word));
  const found = questions.filter(fits);
  for (const kind of kinds) {
    for (const button of buttonsOf(kind)) button.setAttribute("aria-pressed", button.dataset[kind] === chosen[kind]);
  }
  document.getElementById("shown").textContent = `${count(found.length)} of ${count(questions.length)} questions`;
  list.replaceChildren(...found.map(card));
}

for (const kind of kinds) {
  for (const button of buttonsOf(kind)) {
    button.addEventListener("click", () => {
      chosen[kind] = button.dataset[kind];
      apply();
    });
  }
}
filter.addEventListener("input", apply);
filter.form.addEventListener("submit", (event) => event.preventDefault());
apply();
