/** The dialog that asks for an API key. */

import { byId, showText } from "./dom.js";

/** Ask; gives the key, or null when the user does not want to give one. */
export function promptForKey(wasRefused) {
  const dialog = byId("key");
  const field = byId("key-text");
  showText(byId("key-problem"), wasRefused ? "The server does not know this key." : "");
  field.value = "";
  byId("key-cancel").onclick = () => dialog.close();
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    let answer = null;
    form.onsubmit = () => (answer = field.value.trim() || null);
    dialog.onclose = () => {
      field.value = "";
      resolve(answer);
    };
  });
}
