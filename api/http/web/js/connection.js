// Whether the service answers: said in a line at the bottom, and looked at again until it does.

import { pause, request } from "/web/js/api.js";
import { $ } from "/web/js/dom.js";

const FIRST_WAIT_MS = 1500;
const LONGEST_WAIT_MS = 15_000;

export class Connection {
  #onBack;
  #watch = null;

  /** `onBack()` is called when what was lost answers again. */
  constructor({ onBack }) {
    this.#onBack = onBack;
    window.addEventListener("offline", () => this.#say("You are offline."));
    window.addEventListener("online", () => (this.#watch ? this.#again() : this.#say("")));
  }

  /** The service did not answer; it is asked until it does. */
  lost({ isSaid }) {
    if (isSaid) this.#say("The service cannot be reached. Trying again …");
    if (this.#watch) return;
    this.#watch = new AbortController();
    this.#ask(this.#watch.signal).catch(() => {});
  }

  /** What was lost is not wanted any more. */
  forget() {
    this.#watch?.abort();
    this.#watch = null;
    if (navigator.onLine) this.#say("");
  }

  async #ask(signal) {
    for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 1.6)) {
      await pause(waitMs, signal);
      if (await this.#answers(signal)) return this.#again();
    }
  }

  async #answers(signal) {
    try {
      await request("/livez", { signal });
      return true;
    } catch {
      return false;
    }
  }

  #again() {
    this.forget();
    this.#onBack();
  }

  #say(text) {
    $("offline").hidden = !text;
    $("offline").textContent = text;
  }
}
