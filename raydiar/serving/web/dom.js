/**
 * Elements made from data. Text goes in as text nodes only: nothing here parses markup, so names
 * of files and speakers can hold anything.
 */

export const byId = (id) => document.getElementById(id);

/** An element with attributes (functions become listeners) and children (strings become text). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Show a text in an element, or hide the element when there is none. */
export function showText(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}
