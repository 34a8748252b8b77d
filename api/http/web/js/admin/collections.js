// Collections: how large they are, how they are searched, and what can be done to them.

import { attempt, button, figures, head, nothing, openForm, tell, when } from "/web/js/admin/parts.js";
import { askJson } from "/web/js/api.js";
import { bytes, element, number, percent } from "/web/js/dom.js";

const path = (name) => `/v1/collections/${encodeURIComponent(name)}`;

export async function showCollections(panel, { signal }) {
  const again = () => {
    if (!signal.aborted) window.dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const collections = await askJson("/v1/collections", { signal });
  panel.append(head("Collections", button("New collection", () => create(again))));
  if (!collections.length) panel.append(nothing("There is none yet. A job that indexes a source makes one."));
  panel.append(element("div", { class: "cards" }, ...collections.map((each) => card(each, again))));
}

function card(collection, again) {
  const { name } = collection;
  const buttons = element(
    "div",
    { class: "buttons" },
    button("Compact", () => begin("compact", name), "small"),
    button("Verify", () => begin("verify", name), "small"),
    button("Rebuild", () => begin("rebuild", name), "small"),
    button("Describe", () => describe(collection, again), "small"),
    button("Rename", () => rename(name, again), "small"),
    Object.keys(collection.hubness).length > 0 && button("Hubness", () => setHubness(collection, again), "small"),
    button("Delete", () => remove(name, again), "small danger"),
  );
  return element(
    "article",
    { class: "card" },
    element("div", { class: "card-head" }, element("h3", {}, name), element("a", { class: "button small", href: `/?in=${encodeURIComponent(name)}` }, "Search it")),
    collection.description && element("p", {}, collection.description),
    element("p", { class: "sub" }, `${collection.encoder}, ${collection.embedding_dim} wide, since ${when(collection.created_at)}`),
    figures([
      ["Pictures", number(collection.num_items.image ?? 0)],
      ["Texts", number(collection.num_items.text ?? 0)],
      ["On disk", bytes(collection.size_bytes)],
      ["In memory", bytes(collection.memory_bytes)],
      ["Lost embeddings", collection.num_missing_embeddings ? number(collection.num_missing_embeddings) : null],
      ["Segments", number(collection.num_segments)],
      ["Tombstones", number(collection.num_tombstones)],
      ["Index", [...new Set(collection.indexes)].join(", ") || "none"],
      ["ANN recall", collection.ann_recall === null ? "exact" : percent(collection.ann_recall)],
      ["Hubness bias off", Object.entries(collection.hubness).map(([modality, bank]) => `${modality}s ${percent(bank.strength)}`).join(", ") || null],
    ]),
    buttons,
  );
}

function begin(kind, collection) {
  return attempt(async () => {
    await askJson("/v1/jobs", { method: "POST", body: { kind, collection } });
    location.hash = "#jobs";
  });
}

function create(again) {
  openForm({
    title: "New collection",
    note: "It is empty until something is indexed into it.",
    fields: [{ name: "name", label: "Name", required: true }, { name: "description", label: "What it holds" }],
    action: "Create",
    submit: async ({ name, description }) => {
      await askJson("/v1/collections", { method: "POST", body: { name, description } });
      again();
    },
  });
}

function describe({ name, description }, again) {
  openForm({
    title: `Describe ${name}`,
    note: "It is shown where a collection is chosen. Empty, it says nothing.",
    fields: [{ name: "description", label: "What it holds", value: description }],
    action: "Save",
    submit: async (values) => {
      await askJson(path(name), { method: "PATCH", body: { description: values.description } });
      again();
    },
  });
}

function setHubness({ name, hubness }, again) {
  openForm({
    title: `Hubness bias of ${name}`,
    note: "How much a search takes off of how near an item is to every query: 0 takes nothing off, 1 all of it. It counts at once.",
    fields: Object.entries(hubness).map(([modality, bank]) => ({ name: modality, label: `Share taken off of ${modality}s`, value: bank.strength, required: true })),
    action: "Save",
    submit: async (values) => {
      const strengths = Object.fromEntries(Object.entries(values).map(([modality, share]) => [modality, Number(share)]));
      await askJson(path(name), { method: "PATCH", body: { hubness_strength: strengths } });
      again();
    },
  });
}

function rename(name, again) {
  openForm({
    title: `Rename ${name}`,
    fields: [{ name: "name", label: "New name", value: name, required: true }],
    action: "Rename",
    submit: async (values) => {
      await askJson(path(name), { method: "PATCH", body: { name: values.name } });
      again();
    },
  });
}

function remove(name, again) {
  openForm({
    title: `Delete ${name}?`,
    note: "Its embeddings and history go, and pictures that were uploaded to it. Files that were indexed where they are stay.",
    fields: [{ name: "typed", label: `Type ${name} to go on`, required: true }],
    action: "Delete",
    isDangerous: true,
    submit: async ({ typed }) => {
      if (typed !== name) throw new Error(`That is not ${name}.`);
      await askJson(path(name), { method: "DELETE" });
      tell(`${name} is deleted`);
      again();
    },
  });
}
