// Conversations and settings, kept in this browser.

const INDEX = "dsv4.talks";
const ONE = "dsv4.talk.";
const SETTINGS = "dsv4.settings";
export const DEFAULTS = { temperature: "", maxTokens: "", price: "", mode: "" };

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);

/** An empty conversation; it is stored once it has a message. */
export function fresh(mode = "high") {
  return { id: newId(), title: "New conversation", system: "", mode, changed: Date.now(), messages: [] };
}

/** `[{id, title, changed}]`, the latest first. */
export function list() {
  const found = read(INDEX);
  return Array.isArray(found) ? found.filter((entry) => typeof entry?.id === "string") : [];
}

export function load(id) {
  return checked(read(ONE + id));
}

/** Store a conversation. Gives what could not be kept: "", "files" or "all". */
export function save(talk) {
  const text = talk.messages.find((message) => message.role === "user");
  if (text) talk.title = title(text);
  const entry = { id: talk.id, title: talk.title, changed: talk.changed };
  const entries = [entry, ...list().filter((other) => other.id !== talk.id)];
  entries.sort((a, b) => b.changed - a.changed);
  for (const lost of ["", "files", "all"]) {
    try {
      if (lost !== "all") localStorage.setItem(ONE + talk.id, JSON.stringify(lost ? bare(talk) : talk));
      localStorage.setItem(INDEX, JSON.stringify(entries));
      return lost;
    } catch {
      // the storage is full: once more with less
    }
  }
  return "all";
}

function title(message) {
  const line = message.text.trim().split("\n")[0] || message.files?.[0]?.path || "New conversation";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** A conversation without the text of its files. */
function bare(talk) {
  const messages = talk.messages.map((message) =>
    message.files ? { ...message, files: message.files.map((file) => ({ ...file, text: "", lost: true })) } : message,
  );
  return { ...talk, messages };
}

export function remove(id) {
  localStorage.removeItem(ONE + id);
  localStorage.setItem(INDEX, JSON.stringify(list().filter((entry) => entry.id !== id)));
}

/** Everything as the text of a file. */
export function exported() {
  const talks = list().map((entry) => load(entry.id)).filter(Boolean);
  return JSON.stringify({ format: "dsv4-conversations", version: 1, talks }, null, 1);
}

/** Add the conversations of such a file; gives how many. Throws an Error that can be shown. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (file?.format !== "dsv4-conversations" || !Array.isArray(file.talks)) {
    throw new Error("The file holds no conversations of this page.");
  }
  const talks = file.talks.map(checked).filter(Boolean);
  for (const talk of talks) if (save(talk) === "all") throw new Error("This browser's storage is full.");
  return talks.length;
}

/** A conversation of unknown origin with every field of its type, or null. */
function checked(value) {
  if (typeof value?.id !== "string" || !/^[a-z0-9]{1,40}$/.test(value.id) || !Array.isArray(value.messages)) return null;
  const text = (field) => (typeof field === "string" ? field : "");
  const count = (field) => (Number.isFinite(field) ? field : 0);
  const messages = value.messages
    .filter((message) => message?.role === "user" || message?.role === "assistant")
    .map((message) =>
      message.role === "user"
        ? {
            role: "user",
            text: text(message.text),
            files: (Array.isArray(message.files) ? message.files : []).map((file) => ({
              path: text(file?.path),
              text: text(file?.text),
              tokens: count(file?.tokens),
              lost: file?.lost === true,
            })),
          }
        : {
            role: "assistant",
            text: text(message.text),
            reasoning: text(message.reasoning),
            thinkMs: count(message.thinkMs),
            ms: count(message.ms),
            rate: count(message.rate),
            finish: text(message.finish) || "stopped",
            usage: message.usage && typeof message.usage === "object" ? usage(message.usage) : null,
            error: null,
          },
    );
  return {
    id: value.id,
    title: text(value.title) || "Conversation",
    system: text(value.system),
    mode: ["none", "high", "max"].includes(value.mode) ? value.mode : "high",
    changed: count(value.changed),
    messages,
  };
}

/** The counts of a usage object that this page shows. */
export function usage(given) {
  const count = (field) => (Number.isFinite(field) ? field : 0);
  const hit = count(given.prompt_cache_hit_tokens ?? given.prompt_tokens_details?.cached_tokens ?? given.hit);
  const prompt = count(given.prompt_tokens ?? given.prompt);
  return {
    prompt,
    hit,
    output: count(given.completion_tokens ?? given.output),
    reasoning: count(given.completion_tokens_details?.reasoning_tokens ?? given.reasoning),
  };
}

export function settings() {
  return { ...DEFAULTS, ...read(SETTINGS) };
}

export function saveSettings(values) {
  localStorage.setItem(SETTINGS, JSON.stringify(values));
}
