// One hit, large: what is known of it, and the heat of each word of the query over the picture.

import { ask, askJson, key, Problem } from "/web/js/api.js";
import { element, icon, number, percent } from "/web/js/dom.js";
import { nameOf } from "/web/js/grid.js";
import { HeatLayer, smoothed } from "/web/js/heat.js";
import { originalPath, show, thumbnailPath, thumbnailSize } from "/web/js/pictures.js";

const MAX_ENLARGED = 3; // times its own pixels; beyond that one looks at squares

export class Viewer {
  #dialog;
  #actions;
  #work = new AbortController();
  #fitted;
  #hit = null;
  #isClosedByPage = false;

  /** `actions`: `onLike(hit)`, `onStep(hit, ±1)`, `canStep(hit, ±1)` and `onClosed(hit, {byPerson})`. */
  constructor(dialog, actions) {
    this.#dialog = dialog;
    this.#actions = actions;
    this.#fitted = new ResizeObserver(() => this.#fit());
    dialog.addEventListener("close", () => this.#closed());
    dialog.addEventListener("keydown", (event) => this.#keyPressed(event));
  }

  get hit() {
    return this.#hit;
  }

  /** Shows the hit; `words` are those that may be explained, or "". */
  open(hit, { collection, words }) {
    this.#work.abort();
    this.#work = new AbortController();
    this.#hit = hit;
    const refocus = this.#dialog.open ? document.activeElement?.dataset.keep : null;
    this.#dialog.replaceChildren(this.#stage(hit, collection), this.#panel(hit, collection, words));
    if (!this.#dialog.open) this.#dialog.showModal();
    (this.#dialog.querySelector(`[data-keep="${refocus}"]:not(:disabled)`) ?? this.#dialog.querySelector('[data-keep="close"]')).focus();
    this.#fit();
  }

  /** Closes it because something else is asked for now. */
  close() {
    if (!this.#dialog.open) return;
    this.#isClosedByPage = true;
    this.#dialog.close();
  }

  #closed() {
    if (this.#dialog.open) return; // opened again before it was told that it was closed
    const hit = this.#hit;
    const byPerson = !this.#isClosedByPage;
    this.#isClosedByPage = false;
    this.#work.abort();
    this.#fitted.disconnect();
    this.#hit = null;
    this.#dialog.replaceChildren();
    if (hit) this.#actions.onClosed(hit, { byPerson });
  }

  #stage(hit, collection) {
    const stage = element("div", { class: "stage" });
    if (hit.modality === "text") stage.append(element("div", { class: "words-large", tabindex: "0" }, hit.text ?? hit.key));
    else stage.append(this.#frame(hit, collection, stage));
    stage.append(this.#stepButton(hit, -1, "Previous result", "left"), this.#stepButton(hit, 1, "Next result", "right"));
    return stage;
  }

  #frame(hit, collection, stage) {
    const { signal } = this.#work;
    const img = element("img", { alt: hit.text ?? `Picture ${hit.key}` });
    const canvas = element("canvas", { "aria-hidden": "true" });
    const frame = element("div", { class: "frame" }, img, canvas);
    this.heat = new HeatLayer(canvas, img);
    const first = show(img, thumbnailPath(collection, hit.item_id, thumbnailSize()), { signal });
    const original = new Image();
    const full = show(original, originalPath(collection, hit.item_id), { signal }).then(() => {
      if (!signal.aborted) img.src = original.src;
    });
    Promise.allSettled([first, full]).then(([one, other]) => {
      if (signal.aborted || one.status === "fulfilled" || other.status === "fulfilled") return;
      stage.querySelector(".frame").replaceWith(element("p", { class: "gone" }, "The picture cannot be shown; its file may be gone."));
    });
    this.#fitted.disconnect();
    this.#fitted.observe(stage);
    return frame;
  }

  #stepButton(hit, step, label, picture) {
    const button = element("button", { class: `step round ${step < 0 ? "before" : "after"}`, type: "button", "aria-label": label }, icon(picture));
    button.dataset.keep = label;
    button.disabled = !this.#actions.canStep(hit, step);
    button.addEventListener("click", () => this.#actions.onStep(hit, step));
    return button;
  }

  #panel(hit, collection, words) {
    const close = element("button", { class: "quiet round", type: "button", "aria-label": "Close", "data-keep": "close" }, icon("close"));
    close.addEventListener("click", () => this.#dialog.close());
    const head = element("div", { class: "panel-head" }, element("h2", { id: "viewer-title" }, nameOf(hit).slice(0, 400)), close);
    const panel = element("div", { class: "panel" }, head);
    if (hit.match_probability !== null && hit.match_probability !== undefined) panel.append(gauge(hit.match_probability));
    panel.append(this.#buttons(hit, collection));
    if (words && hit.modality === "image") panel.append(this.#explained(hit, collection, words));
    panel.append(facts(hit, collection));
    return panel;
  }

  #buttons(hit, collection) {
    const like = element("button", { class: "button primary", type: "button" }, icon("like"), "More like this");
    like.addEventListener("click", () => this.#actions.onLike(hit));
    const buttons = element("div", { class: "panel-buttons" }, like);
    if (hit.modality === "image") {
      const href = originalPath(collection, hit.item_id);
      buttons.append(element("a", { class: "button", href, target: "_blank", rel: "noopener", onclick: openWithKey }, icon("open"), "Original"));
    }
    return buttons;
  }

  #explained(hit, collection, words) {
    const list = element("div", { class: "words-list", role: "group", "aria-label": "Words of the search" });
    for (const word of words.split(/\s+/).slice(0, 12)) list.append(element("span", { class: "word bone", "aria-hidden": "true" }, word));
    const section = element("section", { class: "explained" }, element("h3", {}, "Where the words are"), list);
    const { signal } = this.#work;
    const path = `/v1/collections/${encodeURIComponent(collection)}/explain`;
    askJson(path, { method: "POST", body: { text: words, item_id: hit.item_id }, signal }).then(
      (explanation) => !signal.aborted && list.replaceChildren(...this.#wordButtons(explanation)),
      (error) => {
        if (!signal.aborted) list.replaceWith(element("p", { class: "why-not" }, whyNot(error)));
      },
    );
    return section;
  }

  #wordButtons(explanation) {
    const hottest = (grid) => Math.max(...grid.map((row) => Math.max(...row)));
    const { highest } = explanation; // of all words: one that found little looks like it
    this.heat.seen = explanation.seen;
    const whole = { text: "All words", map: smoothed(explanation.relevance, hottest(explanation.relevance)) };
    const heaviest = Math.max(1e-9, ...explanation.words.map((word) => word.weight));
    const each = explanation.words.map((word) => ({
      text: word.text,
      share: word.weight,
      length: word.weight / heaviest,
      map: smoothed(word.relevance, highest),
    }));
    let pinned = null;
    return [whole, ...each].map(({ text, share, length, map }) => {
      const button = element("button", { class: "word", type: "button", "aria-pressed": "false" }, text);
      if (share !== undefined) {
        const bar = element("i", { "aria-hidden": "true" });
        bar.style.transform = `scaleX(${length})`;
        button.append(bar, element("span", { class: "hidden-text" }, `, ${percent(share)} of the match`));
      }
      const rest = () => this.heat.fadeTo(pinned?.map ?? null);
      button.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && this.heat.fadeTo(map));
      button.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && rest());
      button.addEventListener("focus", () => button.matches(":focus-visible") && this.heat.fadeTo(map));
      button.addEventListener("blur", rest);
      button.addEventListener("click", () => {
        pinned?.button.setAttribute("aria-pressed", "false");
        pinned = pinned?.button === button ? null : { button, map };
        button.setAttribute("aria-pressed", String(pinned !== null));
        rest();
      });
      return button;
    });
  }

  /** The frame as large as the stage allows, in the picture's own shape. */
  #fit() {
    const frame = this.#dialog.querySelector(".frame");
    if (!frame) return;
    const stage = frame.parentElement;
    const [width, height] = [this.#hit.width || 800, this.#hit.height || 600];
    const scale = Math.min(MAX_ENLARGED, stage.clientWidth / width, stage.clientHeight / height);
    frame.style.width = `${Math.floor(width * scale)}px`;
    frame.style.height = `${Math.floor(height * scale)}px`;
  }

  #keyPressed(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && !event.altKey && !event.ctrlKey && !event.metaKey && this.#actions.canStep(this.#hit, step)) {
      event.preventDefault();
      this.#actions.onStep(this.#hit, step);
    } else if (event.key === "Tab") keepInside(event, this.#dialog);
  }
}

/** Has Tab go round within the dialog: a browser would lead out of the page at its end. */
function keepInside(event, dialog) {
  const stops = [...dialog.querySelectorAll("button:not(:disabled), a[href], [tabindex='0']")];
  const [first, last] = [stops[0], stops[stops.length - 1]];
  if (event.shiftKey && document.activeElement === first) last.focus();
  else if (!event.shiftKey && document.activeElement === last) first.focus();
  else return;
  event.preventDefault();
}

/** With a key a link is not enough: the picture is fetched, and the tab shows it from memory. */
async function openWithKey(event) {
  if (!key()) return;
  event.preventDefault();
  const { href } = event.currentTarget;
  const tab = window.open("about:blank");
  const response = await ask(href);
  const url = URL.createObjectURL(await response.blob());
  if (tab) tab.location = url;
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function whyNot(error) {
  if (error instanceof Problem && error.kind === "PatchesNotFound") return "Nothing is stored of this picture for a second look.";
  return error instanceof Problem ? error.message : "The service cannot be reached.";
}

function gauge(probability) {
  const filled = element("i");
  filled.style.transform = `scaleX(${probability})`;
  return element(
    "div",
    {},
    element("div", { class: "gauge" }, element("strong", {}, percent(probability)), element("span", { class: "note" }, "probable match")),
    element("div", { class: "gauge-bar", "aria-hidden": "true" }, filled),
  );
}

function facts(hit, collection) {
  const rows = [["Name", hit.key]];
  rows.push(["Collection", collection]);
  if (hit.rank) rows.push(["Rank", rankTold(hit)]);
  if (hit.similarity !== undefined && hit.similarity !== null) rows.push(["Similarity", hit.similarity.toFixed(3)]);
  if (hit.width) rows.push(["Size", `${number(hit.width)} × ${number(hit.height)} px`]);
  for (const [name, value] of Object.entries(hit.metadata ?? {})) rows.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
  const list = element("dl", { class: "facts" });
  for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, value));
  return element("section", {}, element("h3", {}, "About it"), list);
}

function rankTold(hit) {
  if (!hit.first_rank || hit.first_rank === hit.rank) return number(hit.rank);
  return `${number(hit.rank)}, at first look ${number(hit.first_rank)}`;
}
