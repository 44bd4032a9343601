/** The first view: which recording, and how many speakers it has. */

import { byId, showText } from "./dom.js";
import { bytes } from "./format.js";

let file = null;

export const chosenFile = () => file;

/** @param {(file: File, bounds: object) => void} onGo */
export function setUpChooser(onGo, onDrop) {
  const input = byId("file");
  input.addEventListener("change", () => input.files.length && choose(input.files[0]));
  byId("choose").addEventListener("submit", (event) => {
    event.preventDefault();
    const { bounds, problem } = readBounds();
    showText(byId("choose-problem"), problem);
    if (!problem && file) onGo(file, bounds);
  });
  for (const [radio, names] of [
    ["exactly", ["num-speakers"]],
    ["between", ["min-speakers", "max-speakers"]],
  ]) {
    for (const name of names) byId(name).addEventListener("input", () => (byId(radio).checked = true));
    byId(radio).addEventListener("click", () => byId(names[0]).focus());
  }
  setUpDrop(onDrop);
}

/** Take a file; null: none any more. */
export function choose(newFile) {
  file = newFile;
  byId("go").disabled = file === null;
  byId("drop").classList.toggle("full", file !== null);
  byId("file-name").textContent = file ? file.name : "Drop a recording here";
  byId("file-facts").textContent = file
    ? `${bytes(file.size)}. Drop another, or choose one, to take that instead.`
    : "or choose a file. It is sent to this server and nowhere else.";
  if (file) byId("go").focus();
  else byId("file").value = "";
}

/** Bounds as the server wants them, or what is wrong with them. */
function readBounds() {
  const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
  const wrong = (value) => value !== null && !(Number.isInteger(value) && value >= 1);
  if (byId("any").checked) return { bounds: {} };
  if (byId("exactly").checked) {
    const numSpeakers = number("num-speakers");
    if (numSpeakers === null || wrong(numSpeakers)) {
      return { problem: "Say how many speakers there are: 1 or more." };
    }
    return { bounds: { numSpeakers } };
  }
  const [minSpeakers, maxSpeakers] = [number("min-speakers"), number("max-speakers")];
  if ((minSpeakers ?? maxSpeakers) === null || wrong(minSpeakers) || wrong(maxSpeakers)) {
    return { problem: "Say how many speakers there are at least or at most: 1 or more." };
  }
  if (minSpeakers !== null && maxSpeakers !== null && minSpeakers > maxSpeakers) {
    return { problem: "The first number of speakers is larger than the second." };
  }
  return {
    bounds: { ...(minSpeakers && { minSpeakers }), ...(maxSpeakers && { maxSpeakers }) },
  };
}

/** A file may be dropped anywhere on the page: elsewhere the browser would open it instead. */
function setUpDrop(onDrop) {
  let depth = 0; // enter and leave come for every element on the way
  const mark = () => document.body.classList.toggle("dragging", depth > 0);
  addEventListener("dragenter", () => {
    depth += 1;
    mark();
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    mark();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark();
    if (event.dataTransfer.files.length) onDrop(event.dataTransfer.files[0]);
  });
}
