// Inputs that were skipped, with their causes; and indexing runs.

import { attempt, button, cell, head, nothing, table, when } from "/web/js/admin/parts.js";
import { ask, askJson } from "/web/js/api.js";
import { element, number } from "/web/js/dom.js";

const PAGE = 100;

export async function showLedger(panel, { signal }) {
  const collections = await askJson("/v1/collections", { signal });
  const choice = element(
    "select",
    { class: "select", "aria-label": "Collection" },
    element("option", { value: "" }, "All collections"),
    ...collections.map(({ name }) => element("option", { value: name }, name)),
  );
  const place = element("div");
  choice.addEventListener("change", () => attempt(() => fill(place, choice.value, signal)));
  panel.append(head("Skipped inputs", choice, button("CSV", () => attempt(() => saveCsv(choice.value)))), place);
  await fill(place, "", signal);
}

const query = (collection, more = {}) => new URLSearchParams({ ...(collection ? { collection } : {}), ...more }).toString();

const COLUMNS = ["Input", "Cause", "When", "Settled"];

async function fill(place, collection, signal) {
  const [ledger, { runs }] = await Promise.all([
    askJson(`/v1/ledger?${query(collection, { limit: PAGE })}`, { signal }),
    askJson(`/v1/runs?${query(collection, { limit: 20 })}`, { signal }),
  ]);
  place.replaceChildren();
  if (ledger.entries.length) {
    const shown = table("Skipped inputs", COLUMNS, ledger.entries.map(entryRow));
    const below = element("div", { class: "below" });
    place.append(shown, below);
    offerMore({ below, body: shown.querySelector("tbody"), after: ledger.next_after, collection, signal });
  } else place.append(nothing("Nothing was skipped."));
  if (!runs.length) return;
  const columns = ["Run", "Collection", "Source", "State", "Begun", "New", "Changed", "Unchanged", "Skipped"];
  place.append(element("h3", { class: "subhead" }, "Indexing runs"), table("Indexing runs", columns, runs.map(runRow)));
}

function offerMore({ below, body, after, collection, signal }) {
  below.replaceChildren();
  if (after === null) return;
  const more = () =>
    attempt(async () => {
      const page = await askJson(`/v1/ledger?${query(collection, { limit: PAGE, after })}`, { signal });
      body.append(...page.entries.map((entry) => element("tr", {}, ...entryRow(entry).map(cell))));
      offerMore({ below, body, after: page.next_after, collection, signal });
    });
  below.append(button("More", more));
}

function entryRow(entry) {
  return [
    { text: entry.key, kind: "long" },
    { text: entry.cause, kind: "long" },
    { text: when(entry.at), kind: "when" },
    { text: when(entry.resolved_at), kind: "when" },
  ];
}

function runRow(run) {
  const { counts } = run;
  return [
    number(run.run_id),
    run.collection ?? "",
    { text: run.source, kind: "long" },
    run.state,
    { text: when(run.started_at), kind: "when" },
    number(counts.new),
    number(counts.changed),
    number(counts.unchanged),
    number(counts.skipped),
  ];
}

async function saveCsv(collection) {
  const response = await ask(`/v1/ledger?${query(collection, { format: "csv" })}`);
  const url = URL.createObjectURL(await response.blob());
  const link = element("a", { href: url, download: "sightline-skipped.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
