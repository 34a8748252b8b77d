// The grid: tiles placed in justified rows, moved where their order changes, and walked through with the arrow keys.

import { element, icon, percent, reducedMotion } from "/web/js/dom.js";
import { justify, rowHeightFor, shapeOf } from "/web/js/layout.js";
import { show, thumbnailPath, thumbnailSize } from "/web/js/pictures.js";

const GAP = 8; // pixels between pictures
const FOOT = 9; // pixels below each, where its match is a bar
const MOVE_MS = 620;
const SHIFT_SHOWN_MS = 2600;
const BONES = 18;

export class Grid {
  #list;
  #onOpen;
  #onLike;
  #onEnd;
  #tiles = []; // in the order in which they are shown
  #tileByHit = new Map();
  #width = 0;
  #current = null;
  #loads = new AbortController();
  #seen;
  #shiftTimer = 0;

  /** `onOpen(hit, button)`, `onLike(hit)`, and `onEnd()` when the keys want to go beyond the last one. */
  constructor(list, { onOpen, onLike, onEnd }) {
    this.#list = list;
    this.#onOpen = onOpen;
    this.#onLike = onLike;
    this.#onEnd = onEnd;
    this.#seen = new IntersectionObserver((entries) => this.#load(entries), { rootMargin: "900px 0px" });
    new ResizeObserver(() => this.#widthChanged()).observe(list);
    list.addEventListener("keydown", (event) => this.#keyPressed(event));
    list.addEventListener("focusin", (event) => this.#focused(event));
  }

  get hits() {
    return this.#tiles.map((tile) => tile.hit);
  }

  /** Shows these hits and no others. */
  show(hits, collection) {
    this.clear();
    this.#list.dataset.collection = collection;
    this.#append(hits);
  }

  /** Shows more, behind those that are there. */
  append(hits) {
    const first = this.#tiles.length;
    this.#append(hits);
    for (const tile of this.#tiles.slice(first)) if (!reducedMotion()) tile.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 180 });
  }

  clear() {
    this.#loads.abort();
    this.#loads = new AbortController();
    this.#seen.disconnect();
    clearTimeout(this.#shiftTimer);
    this.#tiles = [];
    this.#tileByHit.clear();
    this.#current = null;
    this.#list.classList.remove("waiting");
    this.#list.replaceChildren();
    this.#list.style.height = "";
  }

  /** Grey shapes where pictures will be. */
  wait() {
    this.clear();
    this.#list.classList.add("waiting");
    const shapes = Array.from({ length: BONES }, (_, i) => [1.5, 0.75, 1.33, 1, 1.5, 0.67][(i * 5) % 6]);
    const { boxes, height } = this.#boxes(shapes);
    for (const box of boxes) {
      const bone = element("li", { class: "bone", "aria-hidden": "true" });
      place(bone, { ...box, height: box.height - FOOT });
      this.#list.append(bone);
    }
    this.#list.style.height = `${height}px`;
  }

  /** Puts the hits into another order, and lets it be seen how they move. */
  reorder(compare) {
    const before = new Map(this.#tiles.map((tile) => [tile, rectOf(tile, this.#list)]));
    const focused = this.#list.contains(document.activeElement) ? document.activeElement : null;
    this.#tiles.sort((one, other) => compare(one.hit, other.hit));
    this.#list.append(...this.#tiles);
    this.#layOut();
    focused?.focus({ preventScroll: true });
    if (!reducedMotion()) this.#animateFrom(before);
    for (const tile of this.#tiles) tile.classList.toggle("moved", Boolean(tile.querySelector(".shift")));
    clearTimeout(this.#shiftTimer);
    this.#shiftTimer = setTimeout(() => this.#tiles.forEach((tile) => tile.classList.remove("moved")), SHIFT_SHOWN_MS);
  }

  focusOn(hit) {
    this.#tileByHit.get(hit)?.querySelector(".open").focus();
  }

  focusFirst() {
    this.#tiles[0]?.querySelector(".open").focus();
  }

  #append(hits) {
    for (const hit of hits) {
      const tile = this.#makeTile(hit);
      this.#tiles.push(tile);
      this.#tileByHit.set(hit, tile);
      this.#list.append(tile);
    }
    if (!this.#current && this.#tiles.length) this.#makeCurrent(this.#tiles[0]);
    this.#layOut();
    for (const hit of hits) this.#seen.observe(this.#tileByHit.get(hit));
  }

  #makeTile(hit) {
    const tile = element("li", { class: "tile" });
    tile.hit = hit;
    const name = nameOf(hit);
    const open = element("button", { class: "open", type: "button", tabindex: "-1", "aria-label": labelOf(hit) });
    open.addEventListener("click", () => this.#onOpen(hit, open));
    if (hit.modality === "text") open.append(element("span", { class: "words" }, element("span", {}, element("i"), hit.text ?? hit.key)));
    else open.append(element("img", { alt: "", draggable: "false", decoding: "async" }), element("span", { class: "caption" }, name));
    const moved = hit.first_rank && hit.first_rank !== hit.rank ? hit.first_rank - hit.rank : 0;
    if (moved) open.append(element("span", { class: "shift", "aria-hidden": "true" }, `${moved > 0 ? "↑" : "↓"} ${Math.abs(moved)}`));
    const like = element("button", { class: "like round", type: "button", tabindex: "-1", title: "More like this" }, icon("like"));
    like.setAttribute("aria-label", `More like ${name}`);
    like.addEventListener("click", () => this.#onLike(hit));
    tile.append(open, like);
    if (hit.match_probability !== null && hit.match_probability !== undefined) tile.append(matchBar(hit.match_probability));
    return tile;
  }

  #load(entries) {
    const { signal } = this.#loads;
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.#seen.unobserve(target);
      const img = target.querySelector("img");
      if (!img) continue;
      show(img, thumbnailPath(this.#list.dataset.collection, target.hit.item_id, thumbnailSize()), { signal }).then(
        () => img.classList.add("shown"),
        () => {
          if (signal.aborted) return;
          img.replaceWith(element("span", { class: "missing" }, `${target.hit.key} cannot be shown`));
        },
      );
    }
  }

  #boxes(shapes) {
    this.#width = this.#list.clientWidth;
    return justify(shapes, { width: this.#width, gap: GAP, foot: FOOT, rowHeight: rowHeightFor(this.#width) });
  }

  #layOut() {
    const { boxes, height } = this.#boxes(this.#tiles.map((tile) => shapeOf(tile.hit)));
    this.#tiles.forEach((tile, i) => {
      tile.box = boxes[i];
      place(tile, boxes[i]);
    });
    for (const words of this.#list.querySelectorAll(".words")) words.classList.toggle("cut", words.firstChild.scrollHeight > words.firstChild.clientHeight);
    this.#list.style.height = `${height}px`;
  }

  #widthChanged() {
    if (this.#list.clientWidth === this.#width) return;
    if (this.#list.classList.contains("waiting")) this.wait();
    else if (this.#tiles.length) this.#layOut();
  }

  /** FLIP: each tile begins where it was, and goes to where it is. Only those that can be seen on the way. */
  #animateFrom(before) {
    const top = -this.#list.getBoundingClientRect().top - 200;
    const bottom = top + window.innerHeight + 400;
    for (const tile of this.#tiles) {
      const from = before.get(tile);
      const to = tile.box;
      if (!from || (from.x === to.x && from.y === to.y && from.width === to.width)) continue;
      if ((from.y > bottom && to.y > bottom) || (from.y + from.height < top && to.y + to.height < top)) continue;
      tile.style.zIndex = from.y > to.y ? "2" : "1";
      const moving = tile.animate(
        [{ transform: `translate(${from.x}px, ${from.y}px) scale(${from.width / to.width}, ${from.height / to.height})` }, { transform: tile.style.transform }],
        { duration: MOVE_MS, easing: "cubic-bezier(0.25, 0.7, 0.2, 1)" },
      );
      moving.finished.then(() => (tile.style.zIndex = ""), () => {});
    }
  }

  #makeCurrent(tile) {
    if (this.#current === tile) return;
    for (const button of this.#current?.querySelectorAll("button") ?? []) button.tabIndex = -1;
    for (const button of tile.querySelectorAll("button")) button.tabIndex = 0;
    this.#current = tile;
  }

  #focused(event) {
    const tile = event.target.closest(".tile");
    if (tile) this.#makeCurrent(tile);
  }

  #keyPressed(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.#tiles.indexOf(tile);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.#tiles.length - 1 }[event.key];
    if (to !== undefined) this.#go(event, to);
    else if (event.key === "ArrowDown") this.#go(event, this.#inRow(tile, 1));
    else if (event.key === "ArrowUp") this.#go(event, this.#inRow(tile, -1));
    else if (event.key === "m" || event.key === "M") this.#onLike(tile.hit);
  }

  #go(event, to) {
    if (to === null && event.key === "ArrowUp") return;
    event.preventDefault();
    if (to === null || to >= this.#tiles.length) this.#onEnd();
    else if (to >= 0) this.#tiles[to].querySelector(".open").focus();
  }

  /** The index of the tile in the row above or below whose middle is nearest; null where there is no such row. */
  #inRow(tile, step) {
    const middle = tile.box.x + tile.box.width / 2;
    let nearest = null;
    let least = Infinity;
    this.#tiles.forEach((other, i) => {
      const away = Math.abs(other.box.x + other.box.width / 2 - middle);
      if (other.box.row === tile.box.row + step && away < least) [nearest, least] = [i, away];
    });
    return nearest;
  }
}

/** What a person calls the hit: its caption, or the end of its key. */
export function nameOf(hit) {
  return hit.text?.split("\n")[0] || hit.key.split("/").pop();
}

function labelOf(hit) {
  const match = hit.match_probability === null || hit.match_probability === undefined ? "" : `, match ${percent(hit.match_probability)}`;
  return `${hit.rank ? `${hit.rank}: ` : ""}${nameOf(hit).slice(0, 200)}${match}`;
}

function matchBar(probability) {
  const filled = element("i");
  filled.style.transform = `scaleX(${Math.max(0.01, probability)})`;
  return element("span", { class: "match", "aria-hidden": "true" }, filled);
}

function place(tile, box) {
  tile.style.width = `${box.width}px`;
  tile.style.height = `${box.height}px`;
  tile.style.transform = `translate(${box.x}px, ${box.y}px)`;
}

/** Where it is at this moment, in the middle of an animation too. */
function rectOf(tile, list) {
  const inside = list.getBoundingClientRect();
  const box = tile.getBoundingClientRect();
  return { x: box.left - inside.left, y: box.top - inside.top, width: box.width, height: box.height };
}
