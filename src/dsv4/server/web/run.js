// One answer on its way: asks, fills the message in, and says when something changed.

import { ApiError, stream } from "./api.js";
import { withFiles } from "./files.js";
import { usage } from "./talks.js";

/** A message that an answer will fill. `finish`: null while it runs. */
export function pending() {
  return { role: "assistant", text: "", reasoning: "", thinkMs: 0, ms: 0, rate: 0, finish: null, usage: null, error: null };
}

/** What the server is asked for a conversation that ends in a question. */
export function body(talk, model, settings) {
  const messages = talk.messages
    .filter((message) => message.role === "user" || message.text)
    .map((message) =>
      message.role === "user"
        ? { role: "user", content: withFiles(message.text, message.files ?? []) }
        : { role: "assistant", content: message.text },
    );
  if (talk.system.trim()) messages.unshift({ role: "system", content: talk.system });
  const thinks = talk.mode !== "none";
  return {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    thinking: { type: thinks ? "enabled" : "disabled" },
    ...(thinks ? { reasoning_effort: talk.mode } : {}),
    ...(settings.temperature === "" ? {} : { temperature: Number(settings.temperature) }),
    ...(settings.maxTokens === "" ? {} : { max_tokens: Number(settings.maxTokens) }),
  };
}

/** Fills `message` with the answer; `changed()` is called after every event. Never throws. */
export async function run(message, asked, signal, changed) {
  const start = performance.now();
  let first = 0;
  let deltas = 0;
  const thought = () => {
    if (message.thinkStart !== undefined && !message.thinkMs) message.thinkMs = Math.max(1, performance.now() - message.thinkStart);
  };
  try {
    for await (const event of stream(asked, signal)) {
      if (event.usage) message.usage = usage(event.usage);
      const choice = event.choices?.[0];
      if (choice) {
        const { content, reasoning_content: thoughts } = choice.delta ?? {};
        if (thoughts || (typeof thoughts === "string" && choice.delta.role)) message.thinkStart ??= performance.now();
        if (content || thoughts) {
          first ||= performance.now();
          deltas++;
        }
        message.reasoning += thoughts || "";
        if (content) {
          thought();
          message.text += content;
        }
        if (choice.finish_reason) message.finishing = choice.finish_reason;
      }
      if (first && performance.now() > first) message.rate = (1000 * Math.max(0, deltas - 1)) / (performance.now() - first);
      changed();
    }
    message.finish = message.finishing ?? "stop";
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else {
      const known = error instanceof ApiError;
      if (!known) console.error(error);
      message.error = {
        message: known ? error.message : "The page failed to read the answer.",
        status: known ? error.status : 0,
        until: known && error.after ? Date.now() + 1000 * error.after : 0,
      };
      message.finish = "error";
    }
  }
  thought();
  message.ms = performance.now() - start;
  const span = performance.now() - first;
  if (message.usage && first && message.usage.output > 1 && span > 0) {
    message.rate = (1000 * (message.usage.output - 1)) / span;
  }
  delete message.finishing;
  delete message.thinkStart;
  changed();
}
