// Small pieces of document: elements, icons, numbers as people read them.

/** An element: attributes, `on…` listeners, and children, of which strings become text and never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const $ = (id) => document.getElementById(id);

export const number = (value) => new Intl.NumberFormat("en").format(value);

export const percent = (share) => `${Math.round(share * 100)}%`;

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function bytes(size) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = size > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(size) / 3)) : 0;
  const shown = size / 1000 ** power;
  return `${shown >= 100 || power === 0 ? Math.round(shown) : shown.toFixed(1)} ${units[power]}`;
}

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

let announcement = 0;

/** Has a screen reader say it, soon; the last one wins. */
export function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    $("live").textContent = text;
  }, 120);
}

/** Has `popover` open below `button`, within the window. */
export function placeBelow(popover, button) {
  popover.addEventListener("toggle", (event) => {
    if (event.newState === "open") popover.querySelector("input, button")?.focus({ preventScroll: true });
  });
  popover.addEventListener("beforetoggle", (event) => {
    button.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState !== "open") return;
    const box = button.getBoundingClientRect();
    popover.style.top = `${Math.round(box.bottom + 8)}px`;
    popover.style.right = `${Math.round(Math.max(12, document.documentElement.clientWidth - box.right))}px`;
  });
  button.setAttribute("aria-expanded", "false");
}
