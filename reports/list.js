"use strict";

const CHUNK = 50; // About two screens: a page of a hundred thousand samples opens as fast as one of fifty.

/** Finds records that stand inside the page: those of a choice, with all words in their text. */
function inside(records, { choiceOf, textOf }) {
  const told = records.map((record) => textOf(record).toLowerCase());
  return async (choice, words) => {
    const fits = (record, index) =>
      (!choice || choiceOf(record) === choice) && words.every((word) => told[index].includes(word));
    const found = records.filter(fits);
    return { number: found.length, take: async (start) => found.slice(start, start + CHUNK) };
  };
}

/**
 * Fills the list with what is chosen by a button and by words; it grows while it is scrolled.
 *
 * `find` gives how many records fit, and what takes a chunk of them; `card` makes the element of one.
 */
function growList({ find, card, chosen = () => {} }) {
  const list = document.getElementById("samples");
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const shown = document.getElementById("shown");
  const buttons = [...document.querySelectorAll("[data-choice]")];
  const count = (number) => Number(number).toLocaleString("en");
  let choice = "";
  let found = null;
  let drawn = 0;
  let asked = 0;

  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) draw();
  }, { rootMargin: "1000px" });

  async function draw() {
    observer.disconnect();
    const drawing = found;
    const records = await drawing.take(drawn);
    if (drawing !== found) return; // Something else was chosen meanwhile.
    list.append(...records.map(card));
    drawn += records.length;
    // Watching afresh reports again, should the end of the list still be in sight.
    if (records.length && drawn < found.number) observer.observe(more);
  }

  async function apply() {
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.choice === choice);
    const mine = ++asked;
    const words = filter.value.toLowerCase().split(/\s+/).filter((word) => word);
    const result = await find(choice, words);
    if (mine !== asked) return;
    found = result;
    drawn = 0;
    shown.textContent = `${count(found.number)} of ${count(shown.dataset.total)} samples`;
    list.replaceChildren();
    await draw();
  }

  /** The address keeps the choice, so that a link can point at it. */
  function choose(wanted) {
    choice = buttons.some((button) => button.dataset.choice === wanted) ? wanted : "";
    history.replaceState(null, "", choice ? `#${choice}` : location.pathname + location.search);
    apply();
  }

  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.choice));
  window.addEventListener("hashchange", () => {
    choose(location.hash.slice(1));
    chosen();
  });
  filter.addEventListener("input", apply);
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  choose(location.hash.slice(1));
}
