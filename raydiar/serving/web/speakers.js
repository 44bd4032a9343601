/** The table of speakers: names that can be changed, how much each speaks, where else they do. */

import { colorClass } from "./colors.js";
import { make } from "./dom.js";
import { percent, plural, spoken } from "./format.js";

/**
 * @param {HTMLElement} root
 * @param {object[]} speakers see conversation.js
 * @param {{nameOf, onRename, onSearch}} options `nameOf` and the others get a speaker's index;
 *   `onRename` also the new name, and gives the name that then stands; `onSearch` is null where
 *   the server has no index; `only` is the label of the one who is played alone, if any, and
 *   `onOnly` gets the label of whom that is wanted of, or no more
 */
export function showSpeakers(root, speakers, { nameOf, onRename, onSearch, only, onOnly }) {
  const columns = ["Speaker", "Speech", "Share", "Turns", "Listen", onSearch && "Elsewhere"];
  const header = columns.filter(Boolean);
  const head = make("tr", {}, ...header.map((text) => make("th", { scope: "col" }, text)));
  const rows = speakers.map((speaker, index) => {
    const share = make("progress", {
      class: colorClass(index),
      max: "1",
      value: String(speaker.share),
      "aria-hidden": "true",
    });
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, nameField(speaker.label, index, nameOf, onRename)),
      cell("Speech", spoken(speaker.seconds)),
      cell("Share", share, make("span", { class: "share" }, percent(speaker.share))),
      cell("Turns", String(speaker.turns.length)),
      cell("Listen", onlyButton(speaker.label, nameOf(index), only, onOnly)),
      ...(onSearch ? [cell("Elsewhere", searchButton(speaker, index, nameOf, onSearch))] : []),
    );
  });
  const caption = `Time that each of ${plural(speakers.length, "speaker", "speakers")} speaks`;
  root.replaceChildren(
    make(
      "table",
      {},
      make("caption", { class: "unseen" }, caption),
      make("thead", {}, head),
      make("tbody", {}, ...rows),
    ),
  );
}

const cell = (title, ...content) => make("td", { "data-title": title }, ...content);

function nameField(label, index, nameOf, onRename) {
  const field = make("input", {
    type: "text",
    "aria-label": `Name of ${label}`,
    maxlength: "100",
    autocomplete: "off",
    spellcheck: "false",
    change: () => (field.value = onRename(index, field.value)),
    keydown: (event) => {
      if (event.key === "Enter") field.blur(); // which is a change
      if (event.key === "Escape") field.value = nameOf(index);
    },
  });
  field.value = nameOf(index);
  return make("span", { class: "name-field" }, make("span", { class: `dot ${colorClass(index)}` }), field);
}

function onlyButton(label, name, only, onOnly) {
  return make(
    "button",
    {
      type: "button",
      class: "small",
      "data-label": label,
      "aria-label": `Play ${name} only`,
      "aria-pressed": String(only === label),
      click: () => onOnly(label),
    },
    "Only this one",
  );
}

function searchButton(speaker, index, nameOf, onSearch) {
  if (!speaker.voiceprint) {
    return make("span", { class: "quiet" }, "speaks too little to search");
  }
  const click = () => onSearch(index);
  return make("button", { type: "button", class: "small", click }, "Where else does this voice speak?");
}
