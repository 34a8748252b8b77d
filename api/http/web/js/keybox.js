// The dialog that takes a key, and tries it before it is kept.

import { askJson, key, Problem, setKey } from "/web/js/api.js";
import { $ } from "/web/js/dom.js";

/** Wires the dialog; `onChanged()` is called when another key, or none, is in use. Gives a function that opens it. */
export function wireKeyBox({ onChanged }) {
  const dialog = $("key-dialog");
  const problem = $("key-problem");
  $("key-cancel").addEventListener("click", () => dialog.close());
  $("key-forget").addEventListener("click", () => {
    setKey("");
    dialog.close();
    onChanged();
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const before = key();
    setKey($("key-input").value.trim());
    try {
      await askJson("/v1/collections");
    } catch (error) {
      setKey(before);
      problem.textContent = error instanceof Problem && error.status === 401 ? "The service does not know this key." : error.message;
      return;
    }
    dialog.close();
    onChanged();
  });
  return () => {
    problem.textContent = "";
    $("key-input").value = "";
    $("key-forget").hidden = !key();
    if (!dialog.open) dialog.showModal();
    $("key-input").focus();
  };
}
