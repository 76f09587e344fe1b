"use strict";

function card(sample) {
  const made = element("li", sample.verdict, "");
  const source = [sample.id, sample.image].filter((name) => name !== undefined).join(" · ");
  const asked = element("div", "asked", "", element("p", "fine", source), element("p", "said", sample.prompt ?? ""));
  const answered = element("div", "answered", "", element("p", "said", sample.text ?? ""));
  answered.append(fact("Failed", sample.error), fact("Read as", sample.extracted), fact("Expected", sample.label));
  const judged = element("div", "judged", "", element("p", "verdict", sample.verdict));
  judged.append(fact("Value", sample.value), fact("Reason", sample.reason), fact("Group", sample.group));
  made.append(pictureLinks(sample), asked, answered, judged);
  return made;
}

/** Lets the server find, which keeps the samples of a page that it gives. */
function atServer(address) {
  const note = document.getElementById("note");
  const ask = async (choice, words, start) => {
    const query = new URLSearchParams({ choice, words: words.join(" "), start });
    const reply = await fetch(`${address}?${query}`).catch(() => null);
    const told = reply?.ok ? await reply.json() : { number: 0, rows: [], note: await reply?.text() ?? "the server does not answer" };
    note.textContent = told.note ?? "";
    note.hidden = !told.note;
    return told;
  };
  return async (choice, words) => {
    const { number, rows } = await ask(choice, words, 0);
    return { number, take: async (start) => (start ? (await ask(choice, words, start)).rows : rows) };
  };
}

/** Finds among the samples that stand inside the page. */
function inPage() {
  const samples = JSON.parse(document.getElementById("data").textContent);
  const textOf = ({ verdict, value, ...texts }) => Object.values(texts).join("\n");
  return inside(samples, { choiceOf: (sample) => sample.verdict, textOf });
}

const { rowsAt } = document.getElementById("samples").dataset;
growList({ find: rowsAt ? atServer(rowsAt) : inPage(), card });
