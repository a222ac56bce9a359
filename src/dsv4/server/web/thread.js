// Messages as they are shown. A view is made once per message and updated while it grows.

import { copyButton, el, icon, iconButton, money, number, seconds } from "./dom.js";
import { Markdown } from "./markdown.js";

const FINISHES = {
  length: "cut at the token limit",
  stopped: "stopped",
  content_filter: "filtered",
  insufficient_system_resource: "the server ran out of resources",
};

/** The view of a message of the user. `on.edit(text)`: send it anew, changed. */
export function question(message, on) {
  const text = el("div", { className: "text" }, message.text);
  const actions = el("div", { className: "actions" }, copyButton(() => message.text));
  const root = el("article", { className: "message user", "aria-label": "You" });
  const edit = () => {
    const area = el("textarea", { value: message.text, "aria-label": "Edit the message", rows: 1 });
    const close = () => root.replaceChildren(...shown);
    const send = () => {
      close();
      on.edit(area.value);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
    const buttons = el(
      "div",
      { className: "edit-foot" },
      el("button", { type: "button", className: "quiet", onclick: close }, "Cancel"),
      el("button", { type: "button", className: "primary", onclick: send }, "Send"),
    );
    root.replaceChildren(el("div", { className: "edit" }, area, buttons));
    area.style.height = `${area.scrollHeight + 2}px`;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  };
  actions.append(iconButton("edit", "Edit", edit));
  const shown = [...attachments(message.files ?? []), ...(message.text ? [text] : []), actions];
  root.append(...shown);
  return { root, edit, update() {} };
}

function attachments(files) {
  if (!files.length) return [];
  const tokens = files.reduce((sum, file) => sum + file.tokens, 0);
  const name = files.length === 1 ? files[0].path : `${number(files.length)} files`;
  const lost = files.some((file) => file.lost);
  const rows = files.map((file) =>
    el("li", {}, el("span", { className: "path" }, file.path), el("span", {}, number(file.tokens))),
  );
  const sum = el(
    "summary",
    {},
    icon(files.length === 1 ? "file" : "folder"),
    el("span", { className: "path" }, name),
    el("span", { className: "dim" }, `${number(tokens)} tokens${lost ? ", text no longer kept" : ""}`),
  );
  return [el("details", { className: "attached" }, sum, el("ul", {}, ...rows))];
}

/** The view of an answer. `on.retry()`: ask again; `on.cost(usage)`: USD or null. */
export function answer(message, on) {
  const thinking = el("div", { className: "reasoning" });
  const label = el("span", {});
  const fold = el("details", { className: "thinking", hidden: true }, el("summary", {}, icon("fold"), label), thinking);
  const body = el("div", { className: "markdown" });
  const error = el("div", { className: "error", role: "alert", hidden: true });
  const facts = el("span", { className: "facts" });
  const copies = copyButton(() => message.text);
  const retry = iconButton("retry", "Try again", () => on.retry());
  retry.classList.add("retry");
  const actions = el("div", { className: "actions" }, copies, retry, facts);
  const wait = el("div", { className: "wait", role: "status", "aria-label": "Waiting for the answer" }, el("i"), el("i"), el("i"));
  const root = el("article", { className: "message assistant", "aria-label": "Answer" }, fold, wait, body, error, actions);
  const reasoning = new Markdown(thinking);
  const content = new Markdown(body);
  let shownError = null;
  let timer = null;

  fold.addEventListener("toggle", () => fold.open && reasoning.update(message.reasoning));

  function update() {
    const running = message.finish === null;
    const { reasoning: thoughts } = message;
    fold.hidden = !thoughts && message.thinkStart === undefined;
    if (!fold.hidden) {
      const thinks = running && message.thinkMs === 0;
      fold.classList.toggle("live", thinks);
      const time = thinks ? performance.now() - message.thinkStart : message.thinkMs;
      label.textContent = thinks ? `Thinking for ${seconds(time)}` : `Thought${time ? ` for ${seconds(time)}` : ""}`;
      if (fold.open) reasoning.update(thoughts);
    }
    wait.hidden = !running || Boolean(message.text) || !fold.hidden;
    content.update(message.text);
    root.setAttribute("aria-busy", String(running));
    actions.hidden = running || (Boolean(message.error) && !message.text);
    copies.hidden = !message.text;
    retry.hidden = Boolean(message.error);
    facts.replaceChildren(...describe(message, on).map((fact) => el("span", {}, fact)));
    if (message.error !== shownError) showError();
  }

  function showError() {
    shownError = message.error;
    clearInterval(timer);
    error.hidden = !shownError;
    if (!shownError) return;
    const again = el("button", { type: "button", className: "primary", onclick: () => on.retry() }, "Try again");
    error.replaceChildren(el("strong", {}, heading(shownError.status)), el("p", {}, shownError.message), again);
    if (!(shownError.until > Date.now())) return;
    // The server said when to come back.
    const tick = () => {
      const left = Math.ceil((shownError.until - Date.now()) / 1000);
      again.disabled = left > 0;
      again.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left <= 0 || !root.isConnected) clearInterval(timer);
    };
    timer = setInterval(tick, 250);
    tick();
  }

  update();
  return { root, update };
}

function heading(status) {
  return (
    {
      0: "No answer",
      400: "The request cannot be served",
      401: "An API key is needed",
      402: "The balance is used up",
      413: "The request is too large",
      422: "The request cannot be served",
      429: "The server is busy",
      503: "The server is not ready",
    }[status] ?? "The server failed"
  );
}

function describe(message, on) {
  const facts = [];
  const { usage } = message;
  if (FINISHES[message.finish]) facts.push(FINISHES[message.finish]);
  if (usage) {
    facts.push(`${number(usage.output)} tokens`);
    if (message.rate) facts.push(`${message.rate.toFixed(1)} tokens/s`);
    if (usage.prompt) facts.push(`${Math.floor((100 * usage.hit) / usage.prompt)} % cached`);
    const cost = on.cost(usage);
    if (cost !== null) facts.push(money(cost));
  }
  if (message.ms) facts.push(seconds(message.ms));
  return facts;
}
