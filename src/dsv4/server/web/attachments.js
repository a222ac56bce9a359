// The files that go with the next message: gathered, counted, shown, and taken.

import { count } from "./api.js";
import { $, el, iconButton, number, toast } from "./dom.js";
import { chosen, dropped, read } from "./files.js";

const AT_ONCE = 4;

export class Attachments {
  /** `changed()` is called when their tokens may have. */
  constructor(changed) {
    this.files = []; // {path, text, tokens, exact, counted}
    this.skipped = [];
    this.changed = changed;
    this.working = Promise.resolve();
    for (const name of ["file", "folder"]) {
      const input = $(`${name}-input`);
      $(`add-${name}${name === "file" ? "s" : ""}`).addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        const files = chosen(input);
        input.value = "";
        this.add(async () => ({ files, skipped: [] }));
      });
    }
    $("files-clear").addEventListener("click", () => {
      this.take();
      $("draft").focus();
    });
    this.takeDrops();
  }

  takeDrops() {
    let depth = 0;
    const over = (inside) => ($("drop").hidden = !inside);
    const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragenter", (event) => carries(event) && over(++depth > 0));
    addEventListener("dragleave", (event) => carries(event) && over(--depth > 0));
    addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      depth = 0;
      over(false);
      const found = dropped(event.dataTransfer); // now: the browser empties it after the event
      this.add(() => found);
    });
  }

  get tokens() {
    return this.files.reduce((sum, file) => sum + file.tokens, 0);
  }

  /** Add what `find()` gives, after what is being added already. */
  add(find) {
    this.working = this.working.then(async () => {
      try {
        const found = await find();
        const { texts, skipped } = await read(found.files);
        const known = new Set(texts.map((file) => file.path));
        const fresh = texts.map((file) => ({ ...file, tokens: Math.ceil(file.text.length / 3.5), exact: false }));
        this.files = [...this.files.filter((file) => !known.has(file.path)), ...fresh];
        this.skipped.push(...found.skipped, ...skipped);
        if (!texts.length) toast("There is no text in what was added.");
        this.show();
        await this.count(fresh);
      } catch (error) {
        console.error(error);
        toast("The files could not be read.");
      }
      this.show();
    });
  }

  /** Have the server count, a few files at a time. */
  async count(files) {
    const left = [...files];
    const worker = async () => {
      for (let file = left.shift(); file; file = left.shift()) {
        if (!this.files.includes(file)) continue;
        Object.assign(file, await count(file.text));
        this.show();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  /** Resolves when everything that was added is read and counted. */
  ready() {
    return this.working;
  }

  /** The files, which are then no longer here. */
  take() {
    const files = this.files.map(({ path, text, tokens }) => ({ path, text, tokens }));
    this.files = [];
    this.skipped = [];
    this.show();
    return files;
  }

  show() {
    const { files, skipped } = this;
    $("files").hidden = !files.length && !skipped.length;
    const about = files.every((file) => file.exact) ? "" : "≈ ";
    const plural = files.length === 1 ? "file" : "files";
    $("files-sum").textContent = `${number(files.length)} ${plural}, ${about}${number(this.tokens)} tokens`;
    const rows = files.map((file) =>
      el(
        "li",
        {},
        el("span", { className: "path", title: file.path }, file.path),
        el("span", { className: "count" }, `${file.exact ? "" : "≈ "}${number(file.tokens)}`),
        iconButton("close", `Remove ${file.path}`, () => {
          this.files = this.files.filter((other) => other !== file);
          if (!this.files.length) this.skipped = [];
          this.show();
        }),
      ),
    );
    $("files-list").replaceChildren(...rows);
    const box = $("files-skipped");
    box.hidden = !skipped.length;
    box.firstElementChild.textContent = `${number(skipped.length)} passed over`;
    const passed = skipped.slice(0, 200).map(({ path, why }) =>
      el("li", {}, el("span", { className: "path" }, path), el("span", { className: "count" }, why)),
    );
    box.lastElementChild.replaceChildren(...passed);
    this.changed();
  }
}
