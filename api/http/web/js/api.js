// How the pages speak with the service: JSON in and out, the key where there is one, and errors that can be told apart.

const KEY_NAME = "sightline.key";
const MAX_TRIES_WHEN_BUSY = 3;

/** What the service answered instead of what was asked for; `message` is its sentence. */
export class Problem extends Error {
  constructor(status, body, retryAfterS) {
    super(body.detail || body.title || `the service answered ${status}`);
    this.status = status;
    this.kind = body.type || "";
    this.requestId = body.request_id || "";
    this.retryAfterS = retryAfterS;
  }

  /** More was asked for than could be done in time; another try may go well. */
  get isBusy() {
    return this.status === 429 || this.kind === "DeadlineExceeded";
  }

  get needsKey() {
    return this.status === 401 || this.status === 403;
  }
}

/** Nothing answered: the network is away, or the service is. */
export class Unreachable extends Error {}

export function key() {
  return sessionStorage.getItem(KEY_NAME) || "";
}

export function setKey(value) {
  if (value) sessionStorage.setItem(KEY_NAME, value);
  else sessionStorage.removeItem(KEY_NAME);
}

function headersWith(more) {
  const headers = new Headers(more);
  if (key()) headers.set("Authorization", `Bearer ${key()}`);
  return headers;
}

/** The response, whatever its status; raises `Unreachable`, and `AbortError` where `signal` says so. */
export async function request(path, { method = "GET", body, signal, headers } = {}) {
  const sent = headersWith(headers);
  if (body !== undefined) sent.set("Content-Type", "application/json");
  try {
    return await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the service cannot be reached", { cause: error });
  }
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  return new Problem(response.status, body, Number(response.headers.get("Retry-After")) || 1);
}

/** The response to a request that went well; raises `Problem`. */
export async function ask(path, options = {}) {
  const response = await request(path, options);
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** The JSON of an answer, or null where there is none. A service that is busy is asked again when it says. */
export async function askJson(path, options = {}) {
  for (let tries = 1; ; tries++) {
    try {
      const response = await ask(path, options);
      return response.status === 204 ? null : await response.json();
    } catch (error) {
      if (!(error instanceof Problem) || !error.isBusy || tries === MAX_TRIES_WHEN_BUSY) throw error;
      options.onBusy?.(error.retryAfterS);
      await pause(error.retryAfterS * 1000, options.signal);
    }
  }
}

/** Milliseconds, unless `signal` ends them. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}

/** Server-sent events of `path`, one object each: read by hand, because EventSource sends no key. */
export async function* events(path, { signal } = {}) {
  const response = await ask(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value.replaceAll("\r\n", "\n");
      let end;
      while ((end = pending.indexOf("\n\n")) >= 0) {
        const event = parseEvent(pending.slice(0, end));
        pending = pending.slice(end + 2);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    throw new Unreachable("the service cannot be reached", { cause: error });
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  let name = "message";
  const lines = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) lines.push(line.slice(5).trimStart());
  }
  return lines.length ? { name, data: JSON.parse(lines.join("\n")) } : null;
}
