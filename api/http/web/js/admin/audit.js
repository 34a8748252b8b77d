// What administrators did, the newest first.

import { attempt, button, cell, head, nothing, table, when } from "/web/js/admin/parts.js";
import { askJson } from "/web/js/api.js";
import { element } from "/web/js/dom.js";

const COLUMNS = ["When", "Who", "Did", "To", "Details", "Request"];

export async function showAudit(panel, { signal }) {
  const page = await askJson("/v1/audit?limit=100", { signal });
  panel.append(head("Audit"));
  if (!page.events.length) {
    panel.append(nothing("Nothing was administered yet."));
    return;
  }
  const shown = table("Audit", COLUMNS, page.events.map(row));
  const below = element("div", { class: "below" });
  panel.append(shown, below);
  offerMore(below, shown.querySelector("tbody"), page.next_before, signal);
}

function offerMore(below, body, before, signal) {
  below.replaceChildren();
  if (!before) return;
  const more = () =>
    attempt(async () => {
      const page = await askJson(`/v1/audit?limit=100&before=${before}`, { signal });
      body.append(...page.events.map((event) => element("tr", {}, ...row(event).map(cell))));
      offerMore(below, body, page.next_before, signal);
    });
  below.append(button("Earlier", more));
}

function row(event) {
  const details = Object.entries(event.details ?? {}).map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [
    { text: when(event.at), kind: "when" },
    event.actor,
    event.action,
    { text: event.subject, kind: "long" },
    { text: details.join(", "), kind: "long" },
    element("code", {}, event.request_id ?? ""),
  ];
}
