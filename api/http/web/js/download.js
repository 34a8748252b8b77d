// The hits that are loaded, as a file.

import { element } from "/web/js/dom.js";

const COLUMNS = ["rank", "item_id", "key", "modality", "similarity", "match_probability", "first_rank", "text", "width", "height"];

/** `format` is json or csv. */
export function download(hits, { format, asked }) {
  const content = format === "csv" ? csv(hits) : JSON.stringify({ asked, hits }, null, 2);
  const blob = new Blob([content], { type: format === "csv" ? "text/csv;charset=utf-8" : "application/json" });
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: `${fileName(asked)}.${format}` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function fileName(asked) {
  const said = (asked.words || asked.like || "picture").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-");
  return `sightline-${said.replace(/^-+|-+$/g, "").slice(0, 60) || "search"}`;
}

export function csv(hits) {
  const lines = [COLUMNS, ...hits.map((hit) => COLUMNS.map((column) => hit[column]))];
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** A cell that no spreadsheet takes for a formula. */
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
