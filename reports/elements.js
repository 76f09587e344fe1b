"use strict";

/** Makes an element that holds text. What a model said is never read as HTML: only textContent is set. */
function element(tag, className, text, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  made.append(...children);
  return made;
}

/** A labelled line of a sample, or nothing where there is nothing to say. */
function fact(label, text) {
  if (text === undefined) return "";
  return element("p", "fact", "", element("span", "label", `${label} `), element("span", "said", text));
}

/** The pictures of a sample, made small; each leads to the whole one. Only a server has them. */
function pictureLinks(sample) {
  const made = (sample.pictures ?? []).map((address) => {
    const picture = element("img", "", "");
    picture.loading = "lazy";
    picture.alt = `Picture of sample ${sample.id}`;
    picture.src = `${address}&small=1`;
    const link = element("a", "", "", picture);
    link.href = address;
    link.target = "_blank";
    return link;
  });
  return made.length ? element("div", "pictures", "", ...made) : "";
}
