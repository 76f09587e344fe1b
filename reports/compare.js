"use strict";

function card(flip) {
  const made = element("li", flip.direction === "gained" ? "right" : "wrong", "");
  const source = [flip.task, flip.id, flip.image].filter((name) => name !== undefined).join(" · ");
  const asked = element("div", "asked", "", element("p", "fine", source), element("p", "said", flip.prompt ?? ""));
  const answered = element("div", "answered", "");
  answered.append(fact("First", flip.first), fact("Second", flip.second), fact("Expected", flip.label));
  const judged = element("div", "judged", "", element("p", "verdict", flip.direction), fact("Value", flip.values));
  made.append(pictureLinks(flip), asked, answered, judged);
  return made;
}

const flips = JSON.parse(document.getElementById("data").textContent);
const choiceOf = (flip) => `${flip.task}/${flip.direction}`;
const textOf = ({ pictures: _, ...texts }) => Object.values(texts).join("\n");
// The table's numbers point at their samples, which stand below it.
const chosen = () => document.getElementById("flips-title").scrollIntoView();
growList({ find: inside(flips, { choiceOf, textOf }), card, chosen });
