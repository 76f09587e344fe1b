"use strict";

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

const samples = JSON.parse(document.getElementById("data").textContent);
const textOf = ({ verdict, value, ...texts }) => Object.values(texts).join("\n");
growList({ find: inside(samples, { choiceOf: (sample) => sample.verdict, textOf }), card });
