/** Keys that work wherever the focus is, unless something is being typed. */

/** @param {object} does `active` and `editing` tell the state, the others are done */
export function setUpKeys(does) {
  addEventListener("keydown", (event) => {
    if (!does.active() || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, dialog[open]")) return;
    const action = event.ctrlKey || event.metaKey ? withControl(event, does) : alone(event, does);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function withControl(event, does) {
  if (!does.editing()) return null;
  const key = event.key.toLowerCase();
  if (key === "z") return event.shiftKey ? does.redo : does.undo;
  return key === "y" ? does.redo : null;
}

function alone(event, does) {
  const key = event.key.toLowerCase();
  // which presses what has the focus
  if (key === " ") return event.target.closest("button, a, select, input") ? null : does.toggle;
  if (event.target.closest("select")) return null; // letters choose there
  const playing = { k: does.toggle, j: does.back, l: does.on }[key];
  if (playing || !does.editing()) return playing;
  const { split, remove, start, end } = does;
  const editing = { s: split, delete: remove, backspace: remove, "[": start, "]": end }[key];
  if (editing) return editing;
  return /^[1-9]$/.test(key) ? () => does.give(Number(key)) : null;
}
