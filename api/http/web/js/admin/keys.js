// Keys: who may do what. A key is shown once, when it is made.

import { badge, button, collectionNames, head, nothing, openForm, table, tell, when } from "/web/js/admin/parts.js";
import { askJson } from "/web/js/api.js";
import { $, element } from "/web/js/dom.js";

const SCOPES = [
  ["search", "search: ask for items and see them"],
  ["write", "write: add and delete items, begin jobs"],
  ["admin", "admin: everything, keys included"],
];

export async function showKeys(panel, { signal }) {
  const names = collectionNames(signal);
  const keys = await askJson("/v1/keys", { signal });
  panel.append(head("Keys", button("New key", () => create(names), "primary")));
  if (!keys.length) {
    panel.append(nothing("There is no key. Until there is one, every program on this machine may do everything."));
    return;
  }
  const columns = ["Name", "State", "May", "Collections", "Made", "Expires", "Last used", ""];
  panel.append(table("Keys", columns, keys.map(row)));
}

function row(key) {
  const state = stateOf(key);
  const revoke = state === "valid" ? button("Revoke", () => askToRevoke(key), "small danger") : "";
  return [
    key.name,
    badge(state),
    key.scopes.join(", "),
    key.collections?.join(", ") ?? "all",
    { text: when(key.created_at), kind: "when" },
    { text: when(key.expires_at) || "never", kind: "when" },
    { text: when(key.last_used_at) || "never", kind: "when" },
    revoke,
  ];
}

function stateOf(key) {
  if (key.is_valid) return "valid";
  return key.revoked_at ? "revoked" : "expired";
}

const again = () => window.dispatchEvent(new HashChangeEvent("hashchange"));

async function create(names) {
  const collections = await names;
  openForm({
    title: "New key",
    fields: [
      { name: "name", label: "Whose, or what for", required: true },
      { name: "scope", label: "What it may do", options: SCOPES },
      { name: "collection", label: "Where", options: [["", "All collections"], ...collections.map((name) => [name, name])] },
      { name: "days", label: "Days until it expires (empty: never)", type: "number" },
    ],
    action: "Make the key",
    submit: async ({ name, scope, collection, days }) => {
      const body = { name, scopes: [scope] };
      if (collection) body.collections = [collection];
      if (days) body.expires_in_days = Number(days);
      const made = await askJson("/v1/keys", { method: "POST", body });
      again();
      return secret(made);
    },
  });
}

function secret({ key, name }) {
  const close = button("Done", () => $("form-dialog").close(), "primary");
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(key).then(() => tell("Copied"), () => tell("Select it and copy it by hand"));
  });
  return element(
    "div",
    {},
    element("h2", { id: "form-title" }, `The key of ${name}`),
    element("p", { class: "note" }, "It is shown this once; the service keeps a digest of it only."),
    element("code", { class: "secret" }, key),
    element("div", { class: "sheet-buttons" }, copy, close),
  );
}

function askToRevoke(key) {
  openForm({
    title: `Revoke the key of ${key.name}?`,
    note: "Programs that use it are refused from now on. This cannot be undone.",
    action: "Revoke",
    isDangerous: true,
    submit: async () => {
      await askJson(`/v1/keys/${key.key_id}`, { method: "DELETE" });
      again();
    },
  });
}
