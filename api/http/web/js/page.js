// The page: what is asked for is in its address, an answer is shown page by page, and everything else follows from the two.

import { fromAddress, isQuery, NOTHING, sameHits, searchBody, toAddress } from "/web/js/address.js";
import { askJson, Unreachable } from "/web/js/api.js";
import { Connection } from "/web/js/connection.js";
import { showAsked, showCollections, showFilters, showGiven, showNoHits, showSummary, showWords, wireControls } from "/web/js/controls.js";
import { $, announce, plural } from "/web/js/dom.js";
import { download } from "/web/js/download.js";
import { wireGiving } from "/web/js/giving.js";
import { Grid } from "/web/js/grid.js";
import { wireKeyBox } from "/web/js/keybox.js";
import { keptPicture, pictureFrom } from "/web/js/pictures.js";
import { nothingFound, showState, stateOf } from "/web/js/states.js";
import { Viewer } from "/web/js/viewer.js";

const PAGE_SIZE = 64; // as deep as the second look reads by default: the first page has all that it moved
const NUM_SAMPLES = 60; // pictures below the box before anything is searched for
const WAIT_BEFORE_BONES_MS = 160; // an answer that is there by then needs no grey shapes, which would only flicker
const KEPT_ANSWERS = 12;

let asked = { ...NOTHING };
let collections = [];
let pages = null; // {hits, cursor, totalMs, notes, hasSecondLook}, of `asked`
let work = new AbortController();
let isLoadingMore = false;
let focusesResults = false; // whether the next answer takes the focus: it was asked for from a tile, which is gone then
let lastGiven = null; // the picture to search by that was given last: the only one that is
const pictures = new Map(); // that were searched by since the page was loaded
const answers = new Map(); // by address: pages and where they were scrolled to, for going back

const grid = new Grid($("grid"), { onOpen: (hit) => open(hit), onLike: (hit) => moreLike(hit), onEnd: () => loadMore() });
const viewer = new Viewer($("viewer"), {
  onLike: (hit) => moreLike(hit),
  onStep: (hit, step) => stepFrom(hit, step),
  canStep: (hit, step) => neighbour(hit, step) !== undefined,
  onClosed: (hit, { byPerson }) => byPerson && viewerClosed(hit),
});
const askForKey = wireKeyBox({ onChanged: () => begin() });
const connection = new Connection({ onBack: () => (pages && grid.hits.length ? loadMore() : begin()) });

const collectionName = () => asked.collection || (collections.find(({ name }) => name === "default") ?? collections.find(({ name }) => !name.includes("/")))?.name || "default";
const pictureAsked = () => (asked.picture ? (pictures.get(asked.picture) ?? keptPicture(asked.picture)) : null);

/** Asks for something else, as a step that one can go back from. */
function change(changes) {
  const next = { ...asked, ...changes };
  if ("words" in changes) showWords(next.words);
  if (toAddress(next) === toAddress(asked)) {
    if (isQuery(next) && !$("state").hidden) search();
    return;
  }
  remember();
  if (sameHits(next, asked) && !("item" in changes)) history.replaceState(history.state, "", toAddress(next));
  else history.pushState({ isOurs: true }, "", toAddress(next));
  apply(next);
}

/** Shows what `next` asks for; `goingBack` takes an answer that was there before. */
function apply(next, { goingBack = false } = {}) {
  const before = asked;
  asked = next;
  showAsked(asked, { onChange: change });
  if (pages && sameHits(before, asked) && isQuery(asked)) {
    if (before.look !== asked.look) showLook();
    showItem();
    return;
  }
  showGiven(asked, { collection: collectionName(), picture: pictureAsked(), onChange: change });
  showAsked(asked, { onChange: change });
  if ($("collection").value !== collectionName()) $("collection").value = collectionName();
  $("collection").title = $("collection").selectedOptions[0]?.title ?? "";
  document.title = asked.words ? `${asked.words} – Sightline` : "Sightline";
  viewer.close();
  const kept = goingBack ? answers.get(hitsAddress(asked)) : undefined;
  if (!isQuery(asked)) showStart();
  else if (kept) showKept(kept);
  else search();
}

const hitsAddress = (of) => toAddress({ ...of, item: "", look: "second" });

function remember() {
  if (!pages || !isQuery(asked)) return;
  answers.delete(hitsAddress(asked));
  answers.set(hitsAddress(asked), { pages, scrolledTo: window.scrollY });
  if (answers.size > KEPT_ANSWERS) answers.delete(answers.keys().next().value);
}

function showKept(kept) {
  renew();
  pages = kept.pages;
  enter("results");
  showPages();
  window.scrollTo(0, kept.scrolledTo);
  showItem();
}

/** Nothing that was begun for an earlier question goes on. */
function renew() {
  work.abort();
  work = new AbortController();
  isLoadingMore = false;
  connection.forget();
}

function enter(state) {
  document.body.dataset.state = state;
  $("results").setAttribute("aria-busy", "false");
  $("toolbar").hidden = state !== "results" || !pages;
  $("notes").hidden = true;
  $("sample-title").hidden = true;
  $("more").hidden = true;
  $("title").textContent = state === "start" ? "Find a picture by describing it" : `Results for ${asked.words || "a picture"}`;
  showState($("state"));
}

async function search() {
  renew();
  const { signal } = work;
  if (asked.picture && !pictureAsked()) return showPictureGone();
  enter("results");
  $("results").setAttribute("aria-busy", "true");
  if (!pages) grid.clear(); // what stood there was no answer
  const bones = setTimeout(() => !grid.hits.length && grid.wait(), WAIT_BEFORE_BONES_MS);
  try {
    const answer = await fetchPage(null, signal);
    clearTimeout(bones);
    if (signal.aborted) return;
    pages = { hits: [], cursor: null, notes: answer.notes ?? [], totalMs: answer.timings.total_ms, hasSecondLook: Boolean(answer.reranked) };
    addPage(answer);
    enter("results");
    window.scrollTo(0, 0);
    showPages();
    if (focusesResults) grid.focusFirst();
    focusesResults = false;
    showItem();
  } catch (error) {
    clearTimeout(bones);
    if (!signal.aborted) searchFailed(error);
  }
}

function searchFailed(error) {
  pages = null;
  grid.clear();
  enter("results");
  const withoutMinMatch = asked.minMatch ? () => change({ minMatch: 0 }) : null;
  const state = stateOf(error, { retry: () => search(), askForKey, withoutMinMatch });
  showState($("state"), state);
  announce(`${state.heading}. ${state.sentence ?? ""}`);
  if (error instanceof Unreachable) connection.lost({ isSaid: false });
}

function fetchPage(cursor, signal) {
  const body = searchBody(asked, { picture: pictureAsked(), pageSize: PAGE_SIZE, cursor });
  const path = `/v1/collections/${encodeURIComponent(collectionName())}/search`;
  return askJson(path, { method: "POST", body, signal, onBusy: (waitS) => announce(`The service is busy; trying again in ${plural(waitS, "second")}`) });
}

function addPage(answer) {
  pages.hits.push(...answer.hits);
  pages.cursor = answer.next_cursor ?? null;
}

const inOrder = (hits) => [...hits].sort(compareFor(asked.look));

function compareFor(look) {
  return look === "first" ? (one, other) => (one.first_rank ?? one.rank) - (other.first_rank ?? other.rank) : (one, other) => one.rank - other.rank;
}

function showPages() {
  showFilters({ collection: collections.find(({ name }) => name === collectionName()), hasSecondLook: pages.hasSecondLook });
  showSummary(pages);
  $("toolbar").hidden = false;
  grid.show(inOrder(pages.hits), collectionName());
  if (!pages.hits.length) {
    showNoHits();
    const state = nothingFound(asked, { withoutFilters: () => change({ modality: "", minMatch: 0, without: "", item: "" }) });
    showState($("state"), state);
    announce(`${state.heading}. ${state.sentence}`);
    return;
  }
  showMore();
  announce(`${plural(pages.hits.length, "result")}${pages.cursor ? ", more as you scroll" : ""}`);
}

function showMore() {
  $("more").hidden = !pages?.cursor;
  moreSeen.unobserve($("more"));
  if (pages?.cursor) moreSeen.observe($("more")); // anew, so that a page that fills no screen is followed by the next
}

const moreSeen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && loadMore(), { rootMargin: "1200px 0px" });

async function loadMore() {
  if (!pages?.cursor || isLoadingMore) return;
  isLoadingMore = true;
  const { signal } = work;
  try {
    const answer = await fetchPage(pages.cursor, signal);
    if (signal.aborted) return;
    addPage(answer);
    grid.append(inOrder(answer.hits));
    showSummary(pages);
    announce(`${plural(pages.hits.length, "result")} loaded`);
    isLoadingMore = false;
    showMore();
  } catch (error) {
    if (signal.aborted) return;
    isLoadingMore = false;
    moreSeen.unobserve($("more")); // the button stays
    if (error instanceof Unreachable) connection.lost({ isSaid: true });
    else announce(stateOf(error, {}).heading);
  }
}

function showLook() {
  grid.reorder(compareFor(asked.look));
  announce(asked.look === "first" ? "First look: ordered by similarity" : "Second look: ordered after reading each picture again");
}

/** The page before a question: what the collection has. */
async function showStart() {
  renew();
  const { signal } = work;
  pages = null;
  grid.clear();
  enter("start");
  if (!collections.length) return;
  const path = `/v1/collections/${encodeURIComponent(collectionName())}/items?modality=image&limit=${NUM_SAMPLES}`;
  const { items } = await askJson(path, { signal }).catch(() => ({ items: [] }));
  if (signal.aborted || !items.length) return;
  $("sample-title").hidden = false;
  $("sample-title").textContent = `From ${collectionName()}`;
  grid.show(items, collectionName());
}

function showPictureGone() {
  pages = null;
  grid.clear();
  enter("results");
  showState($("state"), {
    heading: "The picture is not here",
    sentence: "A picture that is searched by stays in the tab where it was given. Give it again to search by it.",
    buttons: [["Choose a picture", () => $("choose").click()]],
  });
}

async function searchByFile(file) {
  lastGiven = file;
  try {
    const picture = await pictureFrom(file);
    await begun; // or what is said here would be followed by what the page begins with
    if (lastGiven !== file) return;
    pictures.set(picture.id, picture);
    change({ picture: picture.id, like: "", words: "", item: "", minMatch: 0 });
  } catch (error) {
    await begun;
    if (lastGiven !== file) return;
    renew();
    pages = null;
    grid.clear();
    enter("results");
    showState($("state"), { heading: "This cannot be read", sentence: error.message, buttons: [["Choose another", () => $("choose").click()]] });
  }
}

function moreLike(hit) {
  viewer.close();
  focusesResults = true;
  change({ like: String(hit.item_id), picture: "", words: "", item: "", minMatch: 0, without: "" });
}

const shownHits = () => grid.hits;

function neighbour(hit, step) {
  const hits = shownHits();
  return hits[hits.findIndex(({ item_id: id }) => id === hit.item_id) + step];
}

function stepFrom(hit, step) {
  const next = neighbour(hit, step);
  asked = { ...asked, item: String(next.item_id) };
  history.replaceState(history.state, "", toAddress(asked));
  showItem();
  if (!neighbour(next, 3)) loadMore();
}

function open(hit) {
  if (isQuery(asked)) change({ item: String(hit.item_id) });
  else viewer.open(hit, { collection: collectionName(), words: "" });
}

/** Opens or closes the large view, as the address says. */
async function showItem() {
  if (!asked.item) return viewer.close();
  if (String(viewer.hit?.item_id) === asked.item) return undefined;
  const { signal } = work;
  const path = `/v1/collections/${encodeURIComponent(collectionName())}/items/${encodeURIComponent(asked.item)}`;
  const hit = shownHits().find(({ item_id: id }) => String(id) === asked.item) ?? (await askJson(path, { signal }).catch(() => null));
  if (hit && !signal.aborted) viewer.open(hit, { collection: collectionName(), words: asked.words });
  return undefined;
}

function viewerClosed(hit) {
  grid.focusOn(shownHits().find(({ item_id: id }) => id === hit.item_id));
  if (!asked.item) return;
  asked = { ...asked, item: "" };
  if (history.state?.isOurs) history.back();
  else history.replaceState(history.state, "", toAddress(asked));
}

function keyPressed(event) {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("words").focus();
    $("words").select();
  } else if (event.key === "ArrowDown" && event.target === $("words") && grid.hits.length) {
    event.preventDefault();
    grid.focusFirst();
  }
}

async function begin() {
  showAsked(fromAddress(location.search), { onChange: change });
  try {
    collections = await askJson("/v1/collections");
  } catch (error) {
    pages = null;
    enter("results");
    showState($("state"), stateOf(error, { retry: begin, askForKey }));
    if (error instanceof Unreachable) connection.lost({ isSaid: false });
    return;
  }
  const next = fromAddress(location.search);
  showCollections(collections, next.collection);
  asked = { ...NOTHING };
  pages = null;
  if (!collections.length) return showNoCollections();
  apply(next);
}

function showNoCollections() {
  enter("start");
  showState($("state"), { heading: "Nothing is indexed yet", sentence: "A folder of pictures becomes searchable with one command:", code: "sightline index FOLDER" });
}

wireControls({ onChange: change, onDownload: (format) => download(inOrder(pages.hits), { format, asked }) });
wireGiving({ onFile: searchByFile });
$("key-button").addEventListener("click", askForKey);
$("more").querySelector("button").addEventListener("click", () => loadMore());
document.addEventListener("keydown", keyPressed);
history.scrollRestoration = "manual";
window.addEventListener("popstate", () => {
  remember();
  apply(fromAddress(location.search), { goingBack: true });
});
const begun = begin();
