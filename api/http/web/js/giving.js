// Pictures to search by: chosen, dropped anywhere on the page, or pasted.

import { $ } from "/web/js/dom.js";

/** `onFile(file)` is called with each picture that is given. */
export function wireGiving({ onFile }) {
  wireChoosing(onFile);
  wireDropping(onFile);
  document.addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData);
    if (!file || isForWords(event)) return;
    event.preventDefault();
    onFile(file);
  });
}

function wireChoosing(onFile) {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) onFile(file);
  });
}

function wireDropping(onFile) {
  let depth = 0; // of elements that the pointer has entered and not left
  const ready = (isReady) => {
    if (!isReady) depth = 0;
    $("drop").classList.toggle("ready", isReady);
  };
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth += 1;
    ready(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) ready(false);
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    ready(false);
    const file = pictureOf(event.dataTransfer) ?? event.dataTransfer.files[0];
    if (file) onFile(file);
  });
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

/** Text editors and spreadsheets copy words and a picture of them: in a field, the words are meant. */
function isForWords({ target, clipboardData }) {
  return target instanceof HTMLInputElement && clipboardData.getData("text/plain") !== "";
}

function pictureOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}
