// Pictures to and from the service: an <img> sends no key, so with one they are fetched and shown from memory; pictures that are
// searched by are made small here, which is faster to send and leaves their metadata behind.

import { ask, key } from "/web/js/api.js";

const QUERY_SIDE = 640; // pixels; encoders read at most half of that
const MAX_RAW_BYTES = 20_000_000; // of a picture that the browser can't read and the service perhaps can
const KEPT_PICTURES = 6; // in the tab's storage, so that going back finds them
const PREFIX = "sightline.picture.";

export function thumbnailPath(collection, itemId, size) {
  return `/v1/collections/${encodeURIComponent(collection)}/items/${itemId}/thumbnail?size=${size}`;
}

export function originalPath(collection, itemId) {
  return `/v1/collections/${encodeURIComponent(collection)}/items/${itemId}/original`;
}

/** Pixels of a thumbnail that is sharp on this screen. */
export function thumbnailSize() {
  return window.devicePixelRatio > 1.4 ? 800 : 400;
}

/** Shows the picture of `path` in `img`, until `signal`; resolves when it is there, rejects when it can't be had. */
export async function show(img, path, { signal }) {
  let url = path;
  if (key()) {
    const response = await ask(path, { signal });
    url = URL.createObjectURL(await response.blob());
    signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  }
  if (signal.aborted) return;
  await new Promise((resolve, reject) => {
    img.addEventListener("load", resolve, { once: true });
    img.addEventListener("error", () => reject(new Error(`${path} cannot be shown`)), { once: true });
    img.src = url;
  });
}

/** The picture of a file as it is sent and kept: {id, base64, url}. Raises where it is no picture that anybody can read. */
export async function pictureFrom(file) {
  const blob = await shrunk(file);
  const url = await dataUrl(blob);
  const base64 = url.slice(url.indexOf(",") + 1).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  const picture = { id: digest(base64), base64, url };
  keep(picture);
  return picture;
}

/** A picture that this tab has searched by before, or null. */
export function keptPicture(id) {
  const url = sessionStorage.getItem(PREFIX + id);
  if (!url) return null;
  return { id, url, base64: url.slice(url.indexOf(",") + 1).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") };
}

async function shrunk(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    if (file.size <= MAX_RAW_BYTES && (file.type.startsWith("image/") || !file.type)) return file;
    throw new Error(`${file.name || "what was given"} is not a picture that can be read`);
  }
  const scale = Math.min(1, QUERY_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is see-through would become black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

/** Names a picture in an address: FNV-1a twice, because crypto.subtle is missing on plain http. */
function digest(text) {
  let one = 0x811c9dc5;
  let two = 0x01000193;
  for (let i = 0; i < text.length; i++) {
    one = Math.imul(one ^ text.charCodeAt(i), 0x01000193);
    two = Math.imul(two ^ text.charCodeAt(text.length - 1 - i), 0x811c9dc5);
  }
  return (one >>> 0).toString(16).padStart(8, "0") + (two >>> 0).toString(16).padStart(8, "0");
}

function keep(picture) {
  const kept = Object.keys(sessionStorage).filter((name) => name.startsWith(PREFIX));
  for (const name of kept.slice(0, Math.max(0, kept.length - KEPT_PICTURES + 1))) sessionStorage.removeItem(name);
  try {
    sessionStorage.setItem(PREFIX + picture.id, picture.url);
  } catch {
    // The storage is full: going back to this picture will ask for it again.
  }
}
