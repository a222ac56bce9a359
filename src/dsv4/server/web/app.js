// The page: one conversation at a time, its messages, and what is typed next.

import * as api from "./api.js";
import { Attachments } from "./attachments.js";
import { $, announce, el, iconButton, money, number, short, toast } from "./dom.js";
import { closeSide, confirmLogin, openSettings, setUpDialogs } from "./dialogs.js";
import { body, pending, run } from "./run.js";
import * as talks from "./talks.js";
import { answer, question } from "./thread.js";

const NARROW = matchMedia("(max-width: 820px)");
const SAVE_MS = 3000;
const NEAR = 140; // pixels from the end at which the page follows an answer

const state = {
  talk: talks.fresh(talks.settings().mode || "high"),
  settings: talks.settings(),
  models: [],
  about: { thinking: true, price: "", prices: [] },
  views: new Map(), // message -> its view, for the conversation on the screen
  runs: new Map(), // id of a conversation -> {talk, controller}
  sending: false, // whether a message waits for its files
};
const attachments = new Attachments(showMeters);

// --- the model and what it costs ---------------------------------------------------------

async function connect() {
  api.about().then(
    (found) => {
      state.about = found;
      if (!found.thinking && !state.settings.mode && !state.talk.messages.length) setMode("none");
      refresh();
    },
    () => {},
  );
  try {
    state.models = await api.models();
    $("model").textContent = state.models[0]?.id ?? "";
    showMeters();
    return true;
  } catch (error) {
    if (error.status === 401) login(error.message);
    else toast(error.message);
    return false;
  }
}

const contextWindow = () => state.models[0]?.context_window ?? 0;

function price() {
  const { price: first, prices } = state.about;
  return prices.find((model) => model.name === (state.settings.price || first)) ?? prices[0];
}

/** USD for an answer's usage on the model chosen in the settings; null: no price is known. */
function costOf(usage) {
  const rate = price();
  if (!rate) return null;
  const { hit, miss, output } = rate;
  return (Number(hit) * usage.hit + Number(miss) * (usage.prompt - usage.hit) + Number(output) * usage.output) / 1e6;
}

async function login(why) {
  if (await confirmLogin(why)) await connect();
}

// --- the conversation on the screen --------------------------------------------------------

function show(talk) {
  state.talk = talk;
  state.views.clear();
  const thread = $("thread");
  thread.replaceChildren();
  $("title").textContent = talk.title;
  document.title = talk.messages.length ? `${talk.title} - dsv4` : "dsv4";
  setMode(talk.mode);
  showSystem();
  for (const message of talk.messages) addView(message);
  showEmpty();
  refresh();
  showList();
  scrollDown();
}

/** The system prompt, in a line above the messages. */
function showSystem() {
  $("system-line")?.remove();
  const text = state.talk.system.trim();
  if (!text) return;
  const line = el(
    "button",
    { type: "button", id: "system-line", className: "system quiet", title: "Change the system prompt", onclick: settingsDialog },
    `System prompt: ${text}`,
  );
  $("thread").prepend(line);
}

function setMode(mode) {
  state.talk.mode = mode;
  document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
}

function showEmpty() {
  const { talk } = state;
  const old = $("empty");
  if (talk.messages.length) return old?.remove();
  if (!old) {
    $("thread").append(
      el("div", { id: "empty" }, el("p", {}, "What shall we work on?"), el("p", { className: "dim" }, "Messages and files go to this server and nowhere else.")),
    );
  }
}

function addView(message) {
  const { talk } = state;
  const on = {
    edit: (text) => editMessage(talk, message, text),
    retry: () => retry(talk, message),
    cost: costOf,
  };
  const view = message.role === "user" ? question(message, on) : answer(message, on);
  state.views.set(message, view);
  $("thread").append(view.root);
}

/** Brings views, meters and buttons up to the state. */
function refresh() {
  for (const view of state.views.values()) view.update();
  const running = state.runs.has(state.talk.id);
  $("send").hidden = running;
  $("stop").hidden = !running;
  showMeters();
}

const estimate = (text) => Math.ceil(text.length / 3.5);

/** Tokens of a message that no usage has counted yet, about. */
function uncounted(message) {
  const files = (message.files ?? []).reduce((sum, file) => sum + file.tokens, 0);
  return files + estimate(message.text) + estimate(message.reasoning ?? "");
}

function showMeters() {
  const { messages } = state.talk;
  const answers = messages.filter((message) => message.usage);
  const last = answers.at(-1);
  const later = messages.slice(last ? messages.indexOf(last) + 1 : 0);
  const waiting = attachments.tokens + estimate($("draft").value) + later.reduce((sum, one) => sum + uncounted(one), 0);
  const held = (last ? last.usage.prompt + last.usage.output : 0) + waiting;
  const most = contextWindow();
  $("context-bar").value = most ? Math.min(1, held / most) : 0;
  $("context-bar").classList.toggle("over", most > 0 && held > most);
  $("context").textContent = most ? `${waiting ? "≈ " : ""}${short(held)} of ${short(most)} tokens` : `${short(held)} tokens`;
  const current = state.talk.messages.at(-1);
  const rate = current?.role === "assistant" ? current.rate : 0;
  $("speed").textContent = rate ? `${rate.toFixed(1)} tokens/s` : "";
  const prompt = answers.reduce((sum, message) => sum + message.usage.prompt, 0);
  const hit = answers.reduce((sum, message) => sum + message.usage.hit, 0);
  $("cached").textContent = prompt ? `${Math.floor((100 * hit) / prompt)} % cached` : "";
  $("cached").title = `${number(hit)} of ${number(prompt)} prompt tokens came from the cache`;
  const cost = answers.reduce((sum, message) => sum + (costOf(message.usage) ?? 0), 0);
  $("cost").textContent = answers.length && price() ? money(cost) : "";
  $("cost").title = price() ? `This conversation at the prices of ${price().name} (${price().vendor})` : "";
}

function scrollDown() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

const atEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < NEAR;

function showList() {
  const rows = talks.list().map((entry) => {
    const open = el(
      "button",
      { type: "button", className: "talk", title: entry.title, onclick: () => openTalk(entry.id) },
      entry.title,
    );
    if (entry.id === state.talk.id) open.setAttribute("aria-current", "true");
    const remove = iconButton("trash", `Delete: ${entry.title}`, () => deleteTalk(entry));
    return el("li", {}, open, remove);
  });
  $("talks").replaceChildren(...rows);
}

function openTalk(id) {
  const talk = state.runs.get(id)?.talk ?? (id === state.talk.id ? state.talk : talks.load(id));
  if (!talk) return toast("This conversation is no longer stored.");
  show(talk);
  closeSide();
  $("draft").focus();
}

function newTalk() {
  show(talks.fresh(state.talk.mode));
  closeSide();
  $("draft").focus();
}

function deleteTalk(entry) {
  if (!confirm(`Delete “${entry.title}”?`)) return;
  state.runs.get(entry.id)?.controller.abort();
  state.runs.delete(entry.id);
  talks.remove(entry.id);
  if (entry.id === state.talk.id) newTalk();
  else showList();
}

function store(talk) {

  const lost = talks.save(talk);
  if (lost === "files") toast("This browser's storage is full: the text of dropped files is not kept.");
  if (lost === "all") toast("This browser's storage is full: export or delete conversations.");
}

// --- asking ----------------------------------------------------------------------------------

async function send() {
  const { talk } = state;
  const text = $("draft").value.trim();
  if (state.sending || state.runs.has(talk.id) || (!text && !attachments.files.length)) return;
  state.sending = true;
  await attachments.ready();
  state.sending = false;
  const files = attachments.take();
  $("draft").value = "";
  growDraft();
  while (talk.messages.at(-1)?.error && !talk.messages.at(-1).text) drop(talk, talk.messages.at(-1));
  add(talk, { role: "user", text, files });
  ask(talk);
}

function add(talk, message) {
  talk.messages.push(message);
  if (talk !== state.talk) return;
  addView(message);
  showEmpty();
}

function drop(talk, message) {
  talk.messages.splice(talk.messages.indexOf(message), 1);
  state.views.get(message)?.root.remove();
  state.views.delete(message);
}

/** Everything from a message on is taken back. */
function cut(talk, message) {
  for (const later of talk.messages.slice(talk.messages.indexOf(message))) drop(talk, later);
}

function editMessage(talk, message, text) {
  if (!text.trim() && !message.files?.length) return;
  state.runs.get(talk.id)?.controller.abort();
  state.runs.delete(talk.id);
  cut(talk, message);
  add(talk, { ...message, text: text.trim() });
  ask(talk);
}

function retry(talk, message) {
  if (state.runs.has(talk.id)) return;
  cut(talk, message);
  ask(talk);
}

async function ask(talk) {
  const asked = body(talk, state.models[0]?.id ?? "", state.settings);
  const message = pending();
  const own = { talk, controller: new AbortController() };
  state.runs.set(talk.id, own);
  add(talk, message);
  talk.changed = Date.now();
  store(talk);
  $("title").textContent = state.talk.title;
  showList();
  refresh();
  scrollDown();
  announce("Waiting for the answer");
  let frame = 0;
  let saved = performance.now();
  const draw = () => {
    frame = 0;
    if (state.talk !== talk) return;
    const follows = atEnd();
    state.views.get(message)?.update();
    showMeters();
    if (follows) scrollDown();
  };
  const clock = setInterval(() => (frame ||= requestAnimationFrame(draw)), 100);
  if (!asked.model && !(await connect())) own.controller.abort();
  asked.model ||= state.models[0]?.id ?? "";
  await run(message, asked, own.controller.signal, () => {
    frame ||= requestAnimationFrame(draw);
    if (performance.now() - saved > SAVE_MS && message.finish === null) {
      saved = performance.now();
      if (state.runs.get(talk.id) === own) talks.save(talk);
    }
  });
  clearInterval(clock);
  if (state.runs.get(talk.id) === own) state.runs.delete(talk.id);
  if (!talk.messages.includes(message)) return; // edited or deleted meanwhile
  if (talks.list().some((entry) => entry.id === talk.id)) store(talk);
  draw();
  refresh();
  announce(message.error ? "" : message.finish === "stopped" ? "Stopped" : "The answer is complete");
  if (message.error?.status === 401) login(message.error.message);
}

function stop() {
  state.runs.get(state.talk.id)?.controller.abort();
}

// --- the page around it ------------------------------------------------------------------------

function growDraft() {
  const draft = $("draft");
  draft.style.height = "auto";
  draft.style.height = `${Math.min(draft.scrollHeight, innerHeight * 0.4)}px`;
  showMeters();
}

function nextTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = dark ? [undefined, "light", "dark"] : [undefined, "dark", "light"];
  const next = order[(order.indexOf(root.dataset.theme) + 1) % 3];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("dsv4.theme", next);
    else localStorage.removeItem("dsv4.theme");
  } catch {
    // for this visit only
  }
  announce(next ? `${next} theme` : "the system's theme");
  $("theme").title = `Theme: ${next ?? "system"}`;
}

function exportAll() {
  const file = new Blob([talks.exported()], { type: "application/json" });
  const url = URL.createObjectURL(file);
  el("a", { href: url, download: `conversations-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function importFile() {
  const [file] = $("import-file").files;
  $("import-file").value = "";
  if (!file) return;
  try {
    const count = talks.imported(await file.text());
    toast(`${count} conversation${count === 1 ? "" : "s"} imported.`);
  } catch (error) {
    toast(error.message);
  }
  showList();
}

function settingsDialog() {
  openSettings(state, (values) => {
    state.talk.system = values.system;
    const { temperature, maxTokens, price } = values;
    state.settings = { ...state.settings, temperature, maxTokens, price };
    talks.saveSettings(state.settings);
    if (state.talk.messages.length) store(state.talk);
    showSystem();
    refresh();
    if (values.keyChanged) connect();
  });
}

function editLast() {
  const last = state.talk.messages.filter((message) => message.role === "user").at(-1);
  if (last) state.views.get(last)?.edit();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (document.body.classList.contains("side-open")) closeSide();
    else stop();
    return;
  }
  if (event.target.closest?.("input:not([type=radio]), textarea, select")) return;
  const act = {
    "/": () => $("draft").focus(),
    "?": () => $("keys").showModal(),
    n: newTalk,
    s: settingsDialog,
    t: nextTheme,
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function setUp() {
  setUpDialogs();
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("draft").addEventListener("input", growDraft);
  $("draft").addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const phone = NARROW.matches && matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !phone) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !$("draft").value) {
      event.preventDefault();
      editLast();
    }
  });
  for (const input of document.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", () => {
      state.talk.mode = input.value;
      state.settings.mode = input.value;
      talks.saveSettings(state.settings);
      if (state.talk.messages.length) store(state.talk);
    });
  }
  const clicks = {
    stop,
    new: newTalk,
    export: exportAll,
    import: () => $("import-file").click(),
    theme: nextTheme,
    "open-settings": settingsDialog,
    "open-keys": () => $("keys").showModal(),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("import-file").addEventListener("change", importFile);
  // The end stays in sight when files are added, the keyboard opens or the window changes.
  let pinned = true;
  $("scroll").addEventListener("scroll", () => (pinned = atEnd()));
  new ResizeObserver(() => pinned && scrollDown()).observe($("scroll"));
  document.addEventListener("keydown", onKey);
  show(state.talk);
  connect();
  if (!NARROW.matches) $("draft").focus();
}

setUp();
