// The service itself: how it is set, what it logs, and other names of collections.

import { attempt, button, collectionNames, head, nothing, openForm, table } from "/web/js/admin/parts.js";
import { askJson } from "/web/js/api.js";
import { element, number } from "/web/js/dom.js";

const LEVELS = ["debug", "info", "warning", "error"];

export async function showService(panel, { signal }) {
  const names = collectionNames(signal);
  const [settings, aliases] = await Promise.all([askJson("/v1/settings", { signal }), askJson("/v1/aliases", { signal })]);
  panel.append(head("Service", ...levelChoice(settings.log_level)));
  panel.append(element("div", { class: "head" }, element("h3", {}, "Aliases"), button("New alias", () => create(names), "small")));
  panel.append(aliases.length ? table("Aliases", ["Name", "Means", ""], aliases.map(aliasRow)) : nothing("No collection has another name."));
  for (const [title, values] of [["Settings of the service", settings.service], ["Settings of the store", settings.store]]) {
    panel.append(element("h3", { class: "subhead" }, title), table(title, ["Setting", "Value"], Object.entries(values).map(settingRow)));
  }
}

function settingRow([name, value]) {
  return [element("code", {}, name), { text: settingTold(value), kind: "long" }];
}

function settingTold(value) {
  if (value === null || value === "") return "not set";
  if (typeof value === "number") return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function levelChoice(level) {
  const choice = element(
    "select",
    { class: "select", id: "log-level" },
    ...[...new Set([level, ...LEVELS])].map((each) => element("option", { value: each, selected: each === level }, each)),
  );
  choice.addEventListener("change", () =>
    attempt(() => askJson("/v1/log-level", { method: "PUT", body: { level: choice.value } }), { done: `The service logs at ${choice.value}` }),
  );
  return [element("label", { for: "log-level", class: "note" }, "Log level"), choice];
}

const again = () => window.dispatchEvent(new HashChangeEvent("hashchange"));

function aliasRow({ name, collection }) {
  const remove = () =>
    attempt(async () => {
      await askJson(`/v1/aliases/${encodeURIComponent(name)}`, { method: "DELETE" });
      again();
    });
  return [name, collection, button("Delete", remove, "small danger")];
}

async function create(names) {
  const collections = await names;
  openForm({
    title: "New alias",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "collection", label: "Collection", options: collections },
    ],
    action: "Create",
    submit: async ({ name, collection }) => {
      await askJson(`/v1/aliases/${encodeURIComponent(name)}`, { method: "PUT", body: { collection } });
      again();
    },
  });
}
