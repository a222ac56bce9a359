// The server, through its public API alone.

/** An answer that was refused, failed or broke off. `after`: seconds to wait, if it said so. */
export class ApiError extends Error {
  constructor(message, status = 0, after = null) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

export const key = {
  get: () => {
    try {
      return localStorage.getItem("dsv4.key") ?? "";
    } catch {
      return "";
    }
  },
  set: (value) => {
    if (value) localStorage.setItem("dsv4.key", value);
    else localStorage.removeItem("dsv4.key");
  },
};

async function ask(path, options = {}) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}) };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const after = Number(response.headers.get("Retry-After"));
  const body = await response.json().catch(() => null);
  const message = body?.error?.message;
  throw new ApiError(
    typeof message === "string" ? message : `The server answered ${response.status}.`,
    response.status,
    after > 0 ? after : null,
  );
}

/** The models there are: `[{id, context_window, ...}]`, the served one first. */
export async function models() {
  return (await (await ask("v1/models")).json()).data;
}

/** What the page needs to know: `{thinking, price, prices: [{name, vendor, hit, miss, output}]}`. */
export async function about() {
  return (await ask("web/about.json")).json();
}

/** How many tokens a text has; an estimate where the server does not count. */
export async function count(text, signal) {
  try {
    const response = await ask("tokenize", { method: "POST", body: JSON.stringify({ prompt: text, add_special_tokens: false }), signal });
    const answer = await response.json();
    const tokens = answer.count ?? answer.tokens?.length;
    if (Number.isInteger(tokens)) return { tokens, exact: true };
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  return { tokens: Math.ceil(text.length / 3.5), exact: false };
}

/** The events of an answer, as they come: the parsed `data` of each. */
export async function* stream(body, signal) {
  const response = await ask("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  let ended = false;
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      throw new ApiError("The server sent something that is no event.");
    }
    if (event.error) throw new ApiError(event.error.message ?? "The answer broke off.", 500);
    yield event;
  }
  if (!ended) throw new ApiError("The connection was lost before the answer ended.");
}

/** The data of server-sent events in a stream of bytes, however it is cut. */
export async function* serverSentEvents(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    while (true) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError("The connection was lost before the answer ended.");
      });
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
