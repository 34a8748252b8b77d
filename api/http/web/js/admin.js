// The administrator's page: a key where one is asked for, and a section for each thing that is administered.

import { showAudit } from "/web/js/admin/audit.js";
import { showCollections } from "/web/js/admin/collections.js";
import { showJobs } from "/web/js/admin/jobs.js";
import { showKeys } from "/web/js/admin/keys.js";
import { showLedger } from "/web/js/admin/ledger.js";
import { showService } from "/web/js/admin/service.js";
import { nothing, said } from "/web/js/admin/parts.js";
import { askJson, key, Problem, setKey } from "/web/js/api.js";
import { $ } from "/web/js/dom.js";

const SECTIONS = { collections: showCollections, jobs: showJobs, ledger: showLedger, keys: showKeys, audit: showAudit, service: showService };

let work = new AbortController();

/** Opens the section that the address names. */
async function showSection() {
  work.abort();
  work = new AbortController();
  const { signal } = work;
  const name = location.hash.slice(1) in SECTIONS ? location.hash.slice(1) : "collections";
  for (const link of document.querySelectorAll(".sections a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const panel = document.createElement("div");
  $("panel").setAttribute("aria-busy", "true");
  try {
    await SECTIONS[name](panel, { signal });
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Problem && error.needsKey) return showGate(error);
    panel.append(nothing(said(error)));
  }
  if (signal.aborted) return;
  $("panel").setAttribute("aria-busy", "false");
  $("panel").replaceChildren(panel);
}

/** Asks for a key, and says why where one was tried. */
function showGate(error) {
  work.abort();
  $("inside").hidden = true;
  $("sign-out").hidden = true;
  $("gate").hidden = false;
  $("gate-problem").textContent = key() ? said(error) : "";
  $("gate-key").value = "";
  $("gate-key").focus();
}

/** In, if the service lets us. */
async function enter() {
  try {
    const keys = await askJson("/v1/keys");
    $("openly").hidden = Boolean(key()) || keys.some((each) => each.is_valid);
  } catch (error) {
    if (error instanceof Problem && error.needsKey) return showGate(error);
    $("panel").replaceChildren(nothing(said(error)));
  }
  $("gate").hidden = true;
  $("inside").hidden = false;
  $("sign-out").hidden = !key();
  return showSection();
}

$("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("gate-key").value.trim());
  enter();
});
$("sign-out").addEventListener("click", () => {
  setKey("");
  enter();
});
window.addEventListener("hashchange", async () => {
  await showSection();
  $("panel").focus({ preventScroll: true });
});
enter();
