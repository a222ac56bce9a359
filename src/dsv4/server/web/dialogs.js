// The dialogs, and the list of conversations where it lies over the page.

import { key } from "./api.js";
import { $, el } from "./dom.js";

/** Open the settings; `save(values)` gets them if they are confirmed. */
export function openSettings({ talk, settings, about }, save) {
  const dialog = $("settings");
  const options = about.prices.map((model) => el("option", { value: model.name }, `${model.name} (${model.vendor})`));
  $("price").replaceChildren(...options);
  $("price").value = settings.price || about.price;
  $("system").value = talk.system;
  $("temperature").value = settings.temperature;
  $("max-tokens").value = settings.maxTokens;
  $("key").value = key.get();
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "save") return;
    const given = $("key").value.trim();
    const keyChanged = given !== key.get();
    key.set(given);
    save({
      system: $("system").value,
      temperature: $("temperature").value,
      maxTokens: $("max-tokens").value,
      price: $("price").value,
      keyChanged,
    });
  };
  dialog.showModal();
}

/** Ask for an API key; resolves to whether one was given. */
export function confirmLogin(why) {
  const dialog = $("login");
  if (dialog.open) return Promise.resolve(false);
  $("login-why").textContent = why;
  $("login-key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = $("login-key").value.trim();
      const agreed = dialog.returnValue === "save" && given !== "";
      if (agreed) key.set(given);
      resolve(agreed);
    };
  });
}

export function closeSide() {
  document.body.classList.remove("side-open");
  $("shade").hidden = true;
}

export function setUpDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close(""));
    // Chromium gives the focus back without the caret; typing would then go nowhere.
    dialog.addEventListener("close", () => {
      const { activeElement: focused } = document;
      focused.blur();
      focused.focus();
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close(""));
  }
  $("side-open").addEventListener("click", () => {
    document.body.classList.add("side-open");
    $("shade").hidden = false;
    $("new").focus();
  });
  $("side-close").addEventListener("click", closeSide);
  $("shade").addEventListener("click", closeSide);
}
