// What is asked for, as the page's address and back: an address that is shared or gone back to shows the same again.

export const NOTHING = Object.freeze({
  collection: "",
  words: "",
  like: "", // the id of an item
  picture: "", // the id of a picture that only this tab has
  modality: "",
  minMatch: 0, // percent
  without: "",
  look: "second",
  item: "", // the id of the item that is open
});

const NAMES = { collection: "in", words: "q", like: "like", picture: "picture", modality: "show", without: "without", item: "item" };

export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const asked = { ...NOTHING };
  for (const [field, name] of Object.entries(NAMES)) asked[field] = given.get(name) ?? "";
  if (!/^\d{1,18}$/.test(asked.like)) asked.like = "";
  if (!/^\d{1,18}$/.test(asked.item)) asked.item = "";
  if (!["image", "text"].includes(asked.modality)) asked.modality = "";
  const minMatch = Number(given.get("match"));
  asked.minMatch = Number.isFinite(minMatch) ? Math.min(95, Math.max(0, Math.round(minMatch))) : 0;
  asked.look = given.get("look") === "first" ? "first" : "second";
  return asked;
}

export function toAddress(asked) {
  const shown = new URLSearchParams();
  for (const [field, name] of Object.entries(NAMES)) if (asked[field]) shown.set(name, asked[field]);
  if (asked.minMatch) shown.set("match", String(asked.minMatch));
  if (asked.look === "first") shown.set("look", "first");
  const text = shown.toString();
  return text ? `/?${text}` : "/";
}

/** Whether anything is looked for. */
export function isQuery(asked) {
  return Boolean(asked.words.trim() || asked.like || asked.picture);
}

/** Whether two give the same hits, in whatever order they are looked at. */
export function sameHits(one, other) {
  return ["collection", "words", "like", "picture", "modality", "minMatch", "without"].every((field) => one[field] === other[field]);
}

/** The body of the search; `picture` is the one that `asked.picture` names. */
export function searchBody(asked, { picture, pageSize, cursor }) {
  const body = { top_k: pageSize };
  if (asked.words.trim()) body.text = asked.words.trim();
  if (asked.like) body.like_ids = [Number(asked.like)];
  if (picture) body.image = picture.base64;
  if (asked.modality) body.modality = asked.modality;
  if (asked.without.trim()) body.without = [asked.without.trim()];
  if (asked.minMatch) body.min_match = asked.minMatch / 100;
  if (cursor) body.cursor = cursor;
  return body;
}
