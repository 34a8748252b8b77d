// Pieces of the administrator's page: tables, figures, dialogs with a form, and sentences that pass by.

import { askJson, Problem, Unreachable } from "/web/js/api.js";
import { $, element } from "/web/js/dom.js";

const TOAST_MS = 4000;

/** Names of collections for forms, asked for before a form is opened so that it opens at once. */
export function collectionNames(signal) {
  return askJson("/v1/collections", { signal }).then(
    (collections) => collections.map(({ name }) => name),
    () => [],
  );
}

export function head(title, ...actions) {
  return element("div", { class: "head" }, element("h2", {}, title), ...actions);
}

export function button(text, action, kind = "") {
  return element("button", { class: `button ${kind}`, type: "button", onclick: action }, text);
}

export function nothing(text) {
  return element("p", { class: "nothing" }, text);
}

export function badge(state) {
  return element("span", { class: `badge ${state}` }, state);
}

/** Pairs of a name and a value; those without a value are left out. */
export function figures(pairs) {
  const list = element("dl", { class: "figures" });
  for (const [name, value] of pairs) {
    if (value !== null && value !== undefined && value !== "") list.append(element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
  }
  return list;
}

/** A table of `rows`, each an array of cells: text, an element, or {text, kind} with a class. */
export function table(label, columns, rows) {
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))));
  const heads = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)));
  const made = element("table", { "aria-label": label }, element("thead", {}, heads), body);
  return element("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": label }, made);
}

export function cell(content) {
  if (content instanceof Node) return element("td", {}, content);
  if (content !== null && typeof content === "object") return element("td", { class: content.kind }, content.text ?? "");
  return element("td", {}, content ?? "");
}

export function when(moment) {
  if (!moment) return "";
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(moment));
}

/** What a person is told of an error. */
export function said(error) {
  if (error instanceof Unreachable) return "The service cannot be reached.";
  return error instanceof Problem ? error.message : String(error.message || error);
}

let toastTimer = 0;

/** Says a sentence for a while. */
export function tell(text) {
  clearTimeout(toastTimer);
  $("toast").textContent = text;
  toastTimer = setTimeout(() => ($("toast").textContent = ""), TOAST_MS);
}

/** Does something that may fail; what is said then is the error's sentence. Gives whether it went well. */
export async function attempt(action, { done } = {}) {
  try {
    await action();
  } catch (error) {
    tell(said(error));
    return false;
  }
  if (done) tell(done);
  return true;
}

/**
 * A dialog with a form: `fields` are {name, label, type, value, options, placeholder, required, note}.
 *
 * `submit(values)` is awaited; an error of it is shown and the dialog stays. Where it gives an element, that is shown instead.
 */
export function openForm({ title, note, fields = [], action, isDangerous = false, submit }) {
  const dialog = $("form-dialog");
  const problem = element("p", { class: "problem", role: "alert" });
  const go = element("button", { class: `button primary${isDangerous ? " dangerous" : ""}`, type: "submit" }, action);
  const form = element("form", { method: "dialog" }, element("h2", { id: "form-title" }, title), note && element("p", { class: "note" }, note));
  form.append(...fields.flatMap(fieldOf), problem);
  form.append(element("div", { class: "sheet-buttons" }, button("Cancel", () => dialog.close()), go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    problem.textContent = "";
    try {
      const shown = await submit(valuesOf(form, fields));
      if (shown instanceof Node) dialog.replaceChildren(shown);
      else dialog.close();
    } catch (error) {
      problem.textContent = said(error);
    }
    go.disabled = false;
  });
  dialog.replaceChildren(form);
  dialog.addEventListener("close", () => !dialog.open && dialog.replaceChildren(), { once: true }); // a key was perhaps in it
  dialog.showModal();
  form.querySelector("input, select")?.focus();
}

function fieldOf({ name, label, type = "text", value = "", options, placeholder, required }) {
  const id = `field-${name}`;
  if (type === "check") {
    const box = element("input", { id, name, type: "checkbox", checked: Boolean(value) });
    return [element("label", { class: "check" }, box, label)];
  }
  const control = options
    ? element("select", { id, name, class: "select" }, ...options.map((option) => optionOf(option, value)))
    : element("input", { id, name, class: "input", type, value, placeholder, required, autocomplete: "off", min: type === "number" ? "1" : null });
  return [element("label", { class: "field", for: id }, label), control];
}

function optionOf(option, chosen) {
  const [value, text] = Array.isArray(option) ? option : [option, option];
  return element("option", { value, selected: value === chosen }, text);
}

function valuesOf(form, fields) {
  return Object.fromEntries(fields.map(({ name, type }) => [name, type === "check" ? form.elements[name].checked : form.elements[name].value.trim()]));
}
