// What stands where results would be: nothing yet, nothing found, something wrong.

import { Problem, Unreachable } from "/web/js/api.js";
import { element } from "/web/js/dom.js";

/** Shows a heading, a sentence and buttons ([label, action]) in `place`; without a heading it is empty. */
export function showState(place, { heading, sentence, buttons = [], code, id } = {}) {
  place.hidden = !heading;
  place.replaceChildren();
  if (!heading) return;
  place.append(element("h2", {}, heading));
  if (sentence) place.append(element("p", {}, sentence));
  if (code) place.append(element("p", {}, element("code", {}, code)));
  if (id) place.append(element("p", { class: "id" }, "Request ", element("code", {}, id)));
  if (!buttons.length) return;
  const made = buttons.map(([label, action], i) => element("button", { class: `button${i ? "" : " primary"}`, type: "button", onclick: action }, label));
  place.append(element("div", { class: "state-buttons" }, ...made));
}

/** What is said of an error of a search; `withoutMinMatch` asks for the same whatever matches, where less was asked for. */
export function stateOf(error, { retry, askForKey, withoutMinMatch }) {
  if (error instanceof Unreachable) {
    return { heading: "The service cannot be reached", sentence: "Your search is kept; it goes on when the service answers again.", buttons: [["Try again", retry]] };
  }
  if (error instanceof Problem && error.needsKey) {
    return { heading: "A key is needed", sentence: error.message, buttons: [["Enter a key", askForKey]] };
  }
  if (error instanceof Problem && error.isBusy) {
    return { heading: "The service is busy", sentence: "More is asked of it than it can do in time. Try again in a moment.", buttons: [["Try again", retry]] };
  }
  if (error instanceof Problem) {
    const heading = error.status >= 500 ? "Something went wrong" : "This cannot be searched";
    if (withoutMinMatch && error.status === 422) return { heading, sentence: error.message, buttons: [["Search without “match at least”", withoutMinMatch]] };
    return { heading, sentence: error.message, id: error.status >= 500 ? error.requestId : "", buttons: [["Try again", retry]] };
  }
  return { heading: "Something went wrong", sentence: String(error.message || error), buttons: [["Try again", retry]] };
}

/** What is said where nothing was found. */
export function nothingFound(asked, { withoutFilters }) {
  const filters = [];
  if (asked.minMatch) filters.push(`nothing matches with ${asked.minMatch}% or more`);
  if (asked.modality) filters.push(asked.modality === "image" ? "only pictures are shown" : "only texts are shown");
  if (asked.without) filters.push(`it stays away from “${asked.without}”`);
  if (!filters.length) return { heading: "Nothing found", sentence: "The collection has nothing to show for this. Other words may find more." };
  return {
    heading: "Nothing found",
    sentence: `Perhaps because ${filters.join(", and ")}.`,
    buttons: [["Search without filters", withoutFilters]],
  };
}
