// Jobs: a card each, whose progress moves while one looks, with what can be done to it.

import { attempt, badge, button, collectionNames, head, nothing, openForm, when } from "/web/js/admin/parts.js";
import { askJson, events, pause } from "/web/js/api.js";
import { announce, element, number, plural } from "/web/js/dom.js";

const LOOK_AGAIN_MS = 3000; // for jobs that others begin
const GOES_ON = ["queued", "running"];
const SHOWN = 50;

export async function showJobs(panel, { signal }) {
  const cards = element("div", { class: "cards" });
  const names = collectionNames(signal);
  panel.append(head("Jobs", button("New job", () => create(names), "primary")), cards);
  const shown = new Map(); // cards by the job's id
  await refresh(cards, shown, signal);
  watch(cards, shown, signal).catch(() => {});
}

async function watch(cards, shown, signal) {
  for (;;) {
    await pause(LOOK_AGAIN_MS, signal);
    if (!document.hidden) await refresh(cards, shown, signal).catch(() => {});
  }
}

async function refresh(cards, shown, signal) {
  const { jobs } = await askJson(`/v1/jobs?limit=${SHOWN}`, { signal });
  if (signal.aborted) return;
  cards.querySelector(".nothing")?.remove();
  if (!jobs.length) cards.append(nothing("Nothing was asked for yet."));
  for (const job of [...jobs].reverse()) {
    let card = shown.get(job.job_id);
    if (!card) {
      card = new JobCard({ signal, onActed: () => refresh(cards, shown, signal) });
      shown.set(job.job_id, card);
      cards.prepend(card.root);
    }
    card.show(job);
    if (GOES_ON.includes(job.state)) card.follow();
  }
}

class JobCard {
  constructor({ signal, onActed }) {
    this.signal = signal;
    this.onActed = onActed;
    this.isFollowed = false;
    this.job = null;
    this.title = element("h3");
    this.state = element("span");
    this.sub = element("p", { class: "sub" });
    this.bar = element("i");
    this.progress = element("div", { class: "progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, this.bar);
    this.told = element("p", { class: "progress-told" });
    this.buttons = element("div", { class: "buttons" });
    this.root = element("article", { class: "card job" }, element("div", { class: "card-head" }, this.title, this.state, this.buttons), this.sub, this.progress, this.told);
  }

  show(job) {
    const before = this.job?.state;
    this.job = { ...this.job, ...job };
    const { job_id: id, kind, collection, state, spec, created_by: by, created_at: at } = this.job;
    this.root.dataset.job = id;
    this.root.dataset.state = state;
    this.title.textContent = [kind, collection].filter(Boolean).join(" · ");
    this.sub.textContent = [spec?.source, when(at), by].filter(Boolean).join(" · ");
    this.#showProgress();
    if (before === state) return;
    const fresh = badge(state);
    this.state.replaceWith(fresh);
    this.state = fresh;
    this.buttons.replaceChildren(...this.#actions());
    if (before) announce(`${this.title.textContent} is ${state}`);
  }

  #showProgress() {
    const { state, progress = {}, result, error } = this.job;
    const share = state === "done" ? 1 : progress.num_to_do ? Math.min(1, (progress.num_done ?? 0) / progress.num_to_do) : 0;
    this.progress.hidden = state !== "done" && !GOES_ON.includes(state) && state !== "paused";
    this.bar.style.transform = `scaleX(${share})`;
    this.progress.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    this.progress.setAttribute("aria-label", `Progress of ${this.title.textContent}`);
    this.told.textContent = error || (state === "done" ? resultTold(this.job.kind, result ?? {}) : progressTold(progress));
  }

  #actions() {
    const { job_id: id, state } = this.job;
    const act = (what) => () =>
      attempt(async () => {
        await askJson(`/v1/jobs/${id}/${what}`, { method: "POST" });
        await this.onActed();
      });
    const actions = [];
    if (GOES_ON.includes(state)) actions.push(button("Pause", act("pause"), "small"));
    if (state === "paused") actions.push(button("Resume", act("resume"), "small"));
    if (GOES_ON.includes(state) || state === "paused") actions.push(button("Cancel", act("cancel"), "small danger"));
    if (state === "failed" || state === "cancelled" || (state === "done" && this.job.result?.skipped)) actions.push(button("Retry", act("retry"), "small"));
    return actions;
  }

  /** Shows what the service tells of the job, until it ends or somebody looks elsewhere. */
  async follow() {
    if (this.isFollowed) return;
    this.isFollowed = true;
    try {
      for await (const { data } of events(`/v1/jobs/${this.job.job_id}/events`, { signal: this.signal })) this.show(data);
    } catch {
      // The list is asked for again soon; what follows a job is a convenience.
    } finally {
      this.isFollowed = false;
    }
  }
}

function progressTold({ stage, num_done: done, num_to_do: todo, inputs_per_s: speed, remaining_s: left, num_skipped: skipped, num_inputs: found }) {
  const parts = [];
  if (stage) parts.push(stage);
  if (todo) parts.push(`${number(done ?? 0)} of ${number(todo)}`);
  else if (found) parts.push(`${plural(found, "input")} found`);
  if (speed) parts.push(`${number(Math.round(speed))} a second`);
  if (left) parts.push(`${left >= 90 ? plural(Math.round(left / 60), "minute") : plural(Math.round(left), "second")} left`);
  if (skipped) parts.push(`${number(skipped)} skipped`);
  return parts.join(" · ");
}

const NOT_COUNTED = ["run_id", "duration_s"];

function resultTold(kind, result) {
  if (kind === "verify" && result.num_findings === 0) return "nothing is wrong";
  const parts = [];
  for (const [name, value] of Object.entries(result)) {
    if (typeof value === "number" && value && !NOT_COUNTED.includes(name)) parts.push(`${name.replace(/^num_/, "").replaceAll("_", " ")} ${number(value)}`);
  }
  if (!parts.length) parts.push("nothing to do");
  if (result.duration_s) parts.push(`in ${number(Number(result.duration_s.toFixed(1)))} s`);
  return parts.join(" · ");
}

async function create(names) {
  const [first] = await names;
  openForm({
    title: "New job",
    note: "A source is a path on the server, below one of the folders that its setting source_roots allows.",
    fields: [
      {
        name: "kind",
        label: "What to do",
        options: [
          ["index", "Index a source"],
          ["compact", "Compact"],
          ["verify", "Verify"],
          ["rebuild", "Rebuild"],
          ["patches", "Add patches for the second look"],
          ["captions", "Take the hubness bias off, by captions"],
          ["encoder", "Take the hubness bias off, by the encoder's bank"],
        ],
      },
      { name: "collection", label: "Collection", value: first ?? "default", required: true },
      { name: "source", label: "Source (to index)", placeholder: "/srv/photos" },
      { name: "prune", label: "Delete items that are gone from the source", type: "check" },
    ],
    action: "Begin",
    submit: async ({ kind, collection, source, prune }) => {
      const body = bodyOf({ kind, collection, source, prune });
      await askJson("/v1/jobs", { method: "POST", body });
      window.dispatchEvent(new HashChangeEvent("hashchange"));
    },
  });
}

function bodyOf({ kind, collection, source, prune }) {
  if (kind === "index") return { kind, collection, source, prune };
  if (kind === "captions" || kind === "encoder") return { kind: "hubness", collection, queries: kind };
  return { kind, collection };
}
