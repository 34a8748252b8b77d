// Inputs that were skipped, with their causes; and indexing runs.

import { attempt, button, head, nothing, said, table, when } from "/web/js/admin/parts.js";
import { ask, askJson } from "/web/js/api.js";
import { element, number } from "/web/js/dom.js";

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

async function fill(place, collection, signal) {
  const { entries } = await askJson(`/v1/ledger?${query(collection, { limit: 200 })}`, { signal });
  const { runs } = await askJson(`/v1/runs?${query(collection, { limit: 20 })}`, { signal }).catch((error) => ({ runs: [], problem: said(error) }));
  place.replaceChildren();
  const columns = ["Input", "Cause", "When", "Since indexed"];
  const rows = entries.map((entry) => [{ text: entry.key, kind: "long" }, { text: entry.cause, kind: "long" }, { text: when(entry.at), kind: "when" }, { text: when(entry.resolved_at), kind: "when" }]);
  place.append(rows.length ? table("Skipped inputs", columns, rows) : nothing("Nothing was skipped."));
  if (!runs.length) return;
  place.append(element("h3", { class: "subhead" }, "Indexing runs"), table("Indexing runs", ["Run", "Source", "State", "Begun", "New", "Changed", "Unchanged", "Skipped"], runs.map(runRow)));
}

function runRow(run) {
  const counts = run.counts ?? run;
  return [
    number(run.run_id),
    { text: run.source, kind: "long" },
    run.state,
    { text: when(run.started_at), kind: "when" },
    number(counts.new ?? 0),
    number(counts.changed ?? 0),
    number(counts.unchanged ?? 0),
    number(counts.skipped ?? 0),
  ];
}

async function saveCsv(collection) {
  const response = await ask(`/v1/ledger?${query(collection, { format: "csv" })}`);
  const url = URL.createObjectURL(await response.blob());
  const link = element("a", { href: url, download: "sightline-skipped.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
