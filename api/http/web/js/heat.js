// Heat over a picture: where the words of the query were found, patch by patch, made smooth.

import { reducedMotion } from "/web/js/dom.js";

const FINE = 96; // the longer side of the smooth map, in pixels; the browser makes it large
const GAMMA = 0.75; // below 1 shows what is weak a little better
const FADE_MS = 170;

// Dark to light through violet, red and orange: told apart in grey too, and by colour-blind eyes. As `sightline explain` draws it.
const HEAT = [
  [0, 20, 11, 53],
  [0.3, 114, 31, 110],
  [0.55, 196, 60, 78],
  [0.8, 247, 140, 38],
  [1, 252, 245, 160],
];

/** A grid of relevance (rows of columns) as a smooth map in [0, 1]; `highest` is the hottest. */
export function smoothed(relevance, highest) {
  const rows = relevance.length;
  const columns = relevance[0].length;
  const scale = FINE / Math.max(rows, columns);
  const width = Math.max(1, Math.round(columns * scale));
  const height = Math.max(1, Math.round(rows * scale));
  const values = new Float32Array(width * height);
  if (!(highest > 0)) return { width, height, values };
  const across = weightsFor(columns, width);
  const down = weightsFor(rows, height);
  const half = new Float32Array(rows * width); // (rows, width): columns made fine first
  for (let r = 0; r < rows; r++) {
    for (let x = 0; x < width; x++) {
      for (const [c, weight] of across[x]) half[r * width + x] += weight * relevance[r][c];
    }
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let value = 0;
      for (const [r, weight] of down[y]) value += weight * half[r * width + x];
      values[y * width + x] = Math.min(1, Math.max(0, value / highest)) ** GAMMA;
    }
  }
  return { width, height, values };
}

/** Of every fine place the coarse ones around it with their weights: Catmull-Rom. */
function weightsFor(coarse, fine) {
  return Array.from({ length: fine }, (_, i) => {
    const at = ((i + 0.5) * coarse) / fine - 0.5;
    const base = Math.floor(at);
    return [-1, 0, 1, 2].map((step) => [Math.min(coarse - 1, Math.max(0, base + step)), cubic(at - base - step)]);
  });
}

function cubic(distance) {
  const d = Math.abs(distance);
  if (d < 1) return 1.5 * d ** 3 - 2.5 * d ** 2 + 1;
  return d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
}

function colour(heat) {
  const next = HEAT.findIndex(([place]) => place >= heat);
  if (next <= 0) return HEAT[0].slice(1);
  const [low, high] = [HEAT[next - 1], HEAT[next]];
  const share = (heat - low[0]) / (high[0] - low[0]);
  return [1, 2, 3].map((channel) => low[channel] + share * (high[channel] - low[channel]));
}

const TINTS = Array.from({ length: 256 }, (_, i) => colour(i / 255));

/** Draws heat on a canvas above `img`, and fades from one map to the next. */
export class HeatLayer {
  #canvas;
  #img;
  #shown = null;
  #frame = 0;

  constructor(canvas, img) {
    this.#canvas = canvas;
    this.#img = img;
    this.seen = { left: 0, top: 0, right: 1, bottom: 1 }; // of the picture: what the maps lie over, in shares
  }

  /** `map` is one of `smoothed`, or null for none. */
  fadeTo(map) {
    cancelAnimationFrame(this.#frame);
    this.#canvas.parentElement.classList.toggle("heated", map !== null);
    const from = this.#shown;
    if (reducedMotion() || (!from && !map)) {
      this.#draw(map);
      return;
    }
    const began = performance.now();
    const step = (now) => {
      const share = Math.min(1, Math.max(0, (now - began) / FADE_MS));
      this.#draw(share === 1 ? map : between(from, map, share));
      if (share < 1) this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  #draw(map) {
    this.#shown = map;
    const canvas = this.#canvas;
    const sharp = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(canvas.clientWidth * sharp);
    const height = Math.round(canvas.clientHeight * sharp);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!map || !this.#img.naturalWidth) return;
    context.imageSmoothingQuality = "high";
    context.globalCompositeOperation = "source-over"; // the picture in its colours where it is hot ...
    const { left, top, right, bottom } = this.seen;
    const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
    context.drawImage(layer(map, (heat) => [0, 0, 0, 255 * heat]), ...box);
    context.globalCompositeOperation = "source-in";
    context.drawImage(this.#img, 0, 0, width, height);
    context.globalCompositeOperation = "source-over"; // ... under the tint
    context.drawImage(layer(map, (heat) => [...TINTS[Math.round(heat * 255)], 255 * (0.08 + 0.6 * heat)]), ...box);
  }
}

function between(from, to, share) {
  const shape = to ?? from;
  const values = new Float32Array(shape.values.length);
  for (let i = 0; i < values.length; i++) {
    values[i] = (from ? from.values[i] : 0) * (1 - share) + (to ? to.values[i] : 0) * share;
  }
  return { width: shape.width, height: shape.height, values };
}

function layer(map, rgba) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [map.width, map.height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  map.values.forEach((heat, i) => pixels.data.set(rgba(heat), i * 4));
  context.putImageData(pixels, 0, 0);
  return canvas;
}
