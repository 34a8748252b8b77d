// The box, the filters and what is said of the results: what a person sets is told as changes, and what is asked for is shown.

import { $, element, icon, number, placeBelow, plural } from "/web/js/dom.js";
import { thumbnailPath, show } from "/web/js/pictures.js";

const UNFILTERED = { modality: "", minMatch: 0, without: "" };

let wordsShown = ""; // that the box was given last, whatever was typed since

/** Wires all controls; `onChange(changes)` is told what is asked for now. */
export function wireControls({ onChange, onDownload }) {
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    onChange({ words: $("words").value.trim(), item: "" });
    if (matchMedia("(hover: none)").matches) $("words").blur(); // the keyboard of a phone hides the results
  });
  $("words").addEventListener("input", () => showClear());
  $("clear").addEventListener("click", () => {
    onChange({ words: "", like: "", picture: "", item: "", ...UNFILTERED });
    $("words").focus();
  });
  $("collection").addEventListener("change", () => onChange({ collection: $("collection").value, like: "", item: "", ...UNFILTERED }));
  for (const radio of document.querySelectorAll('input[name="modality"]')) {
    radio.addEventListener("change", () => onChange({ modality: radio.value }));
  }
  for (const radio of document.querySelectorAll('input[name="look"]')) radio.addEventListener("change", () => onChange({ look: radio.value }));
  $("min-match").addEventListener("input", () => showMinMatch(Number($("min-match").value)));
  $("min-match").addEventListener("change", () => onChange({ minMatch: Number($("min-match").value) }));
  $("without").addEventListener("change", () => onChange({ without: $("without").value.trim() }));
  $("without-form").addEventListener("submit", (event) => event.preventDefault());
  placeBelow($("filters"), $("filter-button"));
  placeBelow($("downloads"), $("download-button"));
  for (const button of $("downloads").querySelectorAll("button")) {
    button.addEventListener("click", () => {
      onDownload(button.dataset.format);
      $("downloads").hidePopover();
    });
  }
}

/** Has all controls show what is asked for; words that are being typed stay until others are asked for. */
export function showAsked(asked, { onChange }) {
  if (asked.words !== wordsShown) showWords(asked.words);
  $("without").value = asked.without;
  $("min-match").value = asked.minMatch;
  showMinMatch(asked.minMatch);
  document.querySelector(`input[name="modality"][value="${asked.modality}"]`).checked = true;
  document.querySelector(`input[name="look"][value="${asked.look}"]`).checked = true;
  const chips = [];
  if (asked.modality) chips.push([asked.modality === "image" ? "Pictures only" : "Texts only", { modality: "" }]);
  if (asked.minMatch) chips.push([`Match ≥ ${asked.minMatch}%`, { minMatch: 0 }]);
  if (asked.without) chips.push([`Without ${asked.without}`, { without: "" }]);
  $("chips").replaceChildren(
    ...chips.map(([text, changes]) =>
      element("li", {}, element("button", { type: "button", "aria-label": `Remove: ${text}`, onclick: () => onChange(changes) }, text, icon("close"))),
    ),
  );
  showClear();
}

/** Writes into the box, over what is being typed there. */
export function showWords(words) {
  wordsShown = words;
  $("words").value = words;
}

/** Shows the picture or item that is searched by, in the box. */
export function showGiven(asked, { collection, picture, onChange }) {
  const given = $("given");
  given.hidden = !asked.like && !asked.picture;
  given.replaceChildren();
  $("words").placeholder = given.hidden ? "Describe a picture, or drop one here" : "Add words, if you like";
  if (given.hidden) return;
  const img = element("img", { alt: "" });
  if (picture) img.src = picture.url;
  else if (asked.like) show(img, thumbnailPath(collection, asked.like, 96), { signal: new AbortController().signal }).catch(() => img.remove());
  const label = asked.like ? "More like this" : "Your picture";
  const remove = element("button", { class: "quiet round", type: "button", "aria-label": "Search without the picture" }, icon("close"));
  remove.addEventListener("click", () => onChange({ like: "", picture: "", item: "" }));
  given.append(img, element("span", { class: "wide-only" }, label), remove);
}

function showClear() {
  $("clear").hidden = !$("words").value && $("given").hidden;
}

function showMinMatch(minMatch) {
  $("min-match-shown").textContent = minMatch ? `${minMatch}%` : "any";
}

/** The names to choose from, where there are several; `collections` are as the service tells them. */
export function showCollections(collections, chosen) {
  const select = $("collection");
  select.hidden = collections.length < 2;
  select.replaceChildren(
    ...collections.map(({ name, description, num_items: counts }) => {
      const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
      if (name.includes("/")) {
        const title = "No address can hold a name with a slash; an alias gives it one";
        return element("option", { value: name, title, disabled: true }, `${name} (has no address)`);
      }
      return element("option", { value: name, title: description, selected: name === chosen }, `${name} (${number(total)})`);
    }),
  );
}

/** Which filters make sense: both modalities, and a second look to match by. */
export function showFilters({ collection, hasSecondLook }) {
  const counts = collection?.num_items ?? {};
  $("modalities").hidden = !(counts.image && counts.text);
  $("min-match-field").hidden = !hasSecondLook;
  $("looks").hidden = !hasSecondLook;
}

/** What makes no sense where nothing was found; what the service says of it is in the middle of the page then. */
export function showNoHits() {
  $("looks").hidden = true;
  $("notes").hidden = true;
}

/** The line above the results. */
export function showSummary(pages) {
  const count = pages.hits.length;
  $("download-button").hidden = !count;
  $("summary").textContent = `${number(count)}${pages.cursor ? "+" : ""} ${count === 1 ? "result" : "results"} in ${number(Math.round(pages.totalMs))} ms`;
  $("download-note").textContent = `The ${plural(count, "result")} loaded so far`;
  $("notes").hidden = !pages.notes.length;
  $("notes").textContent = pages.notes.join(" · ");
}
