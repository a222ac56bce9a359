// Markdown as elements. Model text becomes text nodes; the only attribute it reaches is the
// address of a link, and that is http, https or mailto.

import { copyButton, el } from "./dom.js";
import { highlight } from "./highlight.js";

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8;

/** Shows text that grows: only the blocks that changed are made anew. */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.sources = [];
  }

  update(text) {
    const sources = chunks(text.split("\n"));
    let same = 0;
    while (same < sources.length && sources[same].join("\n") === this.sources[same]) same++;
    while (this.root.children.length > same) this.root.lastElementChild.remove();
    for (const lines of sources.slice(same)) this.root.append(block(lines, 0));
    this.sources = sources.map((lines) => lines.join("\n"));
  }
}

/** Lines, grouped into blocks. */
function chunks(lines) {
  const groups = [];
  let i = 0;
  while (i < lines.length) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const end = blockEnd(lines, i);
    groups.push(lines.slice(i, end));
    i = end;
  }
  return groups;
}

function blockEnd(lines, start) {
  const line = lines[start];
  const fence = FENCE.exec(line);
  if (fence) return fenceEnd(lines, start, fence[2]);
  if (HEADING.test(line) || RULE.test(line)) return start + 1;
  let i = start + 1;
  if (QUOTE.test(line)) {
    while (i < lines.length && QUOTE.test(lines[i])) i++;
    return i;
  }
  if (ITEM.test(line)) return listEnd(lines, start);
  if (isTable(lines, start)) {
    i = start + 2;
    while (i < lines.length && lines[i].includes("|") && lines[i].trim()) i++;
    return i;
  }
  while (i < lines.length && lines[i].trim() && !opens(lines, i)) i++;
  return i;
}

function opens(lines, i) {
  const line = lines[i];
  return (
    FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
    ITEM.test(line) || isTable(lines, i)
  );
}

function isTable(lines, i) {
  return lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && DIVIDER.test(lines[i + 1]);
}

function fenceEnd(lines, start, mark) {
  for (let i = start + 1; i < lines.length; i++) {
    const text = lines[i].trim();
    if (text.length >= mark.length && text === mark[0].repeat(text.length)) return i + 1;
  }
  return lines.length;
}

function listEnd(lines, start) {
  let i = start;
  while (i < lines.length) {
    const fence = FENCE.exec(lines[i].trimStart());
    if (fence && i > start && /^\s/.test(lines[i])) {
      i = fenceEnd(lines, i, fence[2]);
      continue;
    }
    if (lines[i].trim()) {
      if (i > start && !ITEM.test(lines[i]) && !/^\s/.test(lines[i]) && opens(lines, i)) return i;
      i++;
      continue;
    }
    let next = i;
    while (next < lines.length && !lines[next].trim()) next++;
    if (next === lines.length || !(ITEM.test(lines[next]) || /^\s{2,}/.test(lines[next]))) return i;
    i = next;
  }
  return i;
}

function block(lines, depth) {
  const line = lines[0];
  const fence = FENCE.exec(line);
  if (fence) return codeBlock(lines, fence);
  const heading = HEADING.exec(line);
  if (heading && lines.length === 1) {
    // The page's own headings are h1 and h2.
    return inline(el(`h${Math.min(6, heading[1].length + 2)}`), heading[2]);
  }
  if (RULE.test(line) && lines.length === 1) return el("hr");
  if (depth < DEEPEST && QUOTE.test(line)) {
    const inner = lines.map((text) => text.replace(QUOTE, ""));
    return el("blockquote", {}, ...chunks(inner).map((part) => block(part, depth + 1)));
  }
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, depth);
  if (isTable(lines, 0)) return table(lines);
  return inline(el("p"), lines.map((text) => text.trimStart()).join("\n"));
}

function codeBlock(lines, fence) {
  const [, indent, mark, language] = fence;
  const last = lines.at(-1).trim();
  const closed = lines.length > 1 && last.length >= mark.length && last === mark[0].repeat(last.length);
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const code = lines.slice(1, closed ? -1 : undefined).map((text) => text.replace(strip, "")).join("\n");
  return el(
    "div",
    { className: "code" },
    el("div", { className: "code-head" }, el("span", {}, language || "text"), copyButton(() => code, "Copy the code")),
    el("pre", { tabIndex: 0 }, el("code", {}, ...highlight(code, language))),
  );
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const ordered = /\d/.test(first[2]);
  const node = el(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(first[2], 10);
  const margin = first[1].length;
  const items = [];
  let inFence = null;
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (!inFence && match && match[1].length <= margin + 1) {
      items.push({ indent: match[0].length, lines: [line.slice(match[0].length)] });
      continue;
    }
    const item = items.at(-1);
    const blank = line.length - line.trimStart().length;
    const text = line.slice(Math.min(blank, item.indent));
    const fence = FENCE.exec(text);
    if (inFence ? text.trim() === inFence : fence) inFence = inFence ? null : fence[2];
    item.lines.push(text);
  }
  for (const item of items) {
    const parts = chunks(item.lines).map((part) => block(part, depth + 1));
    const tight = parts[0]?.tagName === "P" ? [...parts[0].childNodes, ...parts.slice(1)] : parts;
    node.append(el("li", {}, ...tight));
  }
  return node;
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines) {
  const align = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const row = (tag, line) =>
    el(
      "tr",
      {},
      ...cells(line).slice(0, align.length).map((cell, i) => inline(el(tag, { className: align[i] }), cell)),
    );
  const body = el("tbody", {}, ...lines.slice(2).map((line) => row("td", line)));
  return el("div", { className: "table", tabIndex: 0 }, el("table", {}, el("thead", {}, row("th", lines[0])), body));
}

const SPANS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const LINK = /\[((?:[^[\]\\\n]|\\.){1,400})\]\(\s*<?([^\s<>()]{1,2000}(?:\([^\s<>()]*\))?[^\s<>()]{0,200})>?(?:\s+"[^"\n]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\u3000-\u303f]{1,2000}/y;
const AUTOLINK = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/;
const SPECIAL = /[\\`*_~[<\n]|https?:\/\//g;

/** Adds text with its emphasis, code and links to an element, and gives the element. */
export function inline(parent, text, depth = 0) {
  const missing = new Set(); // marks that are not closed in the rest of this text
  let plain = "";
  let i = 0;
  const flush = () => {
    if (plain) parent.append(plain);
    plain = "";
  };
  const add = (node, end) => {
    flush();
    parent.append(node);
    i = end;
  };
  while (i < text.length) {
    SPECIAL.lastIndex = i;
    const special = SPECIAL.exec(text);
    const at = special ? special.index : text.length;
    plain += text.slice(i, at);
    i = at;
    if (!special) break;
    const char = text[i];
    if (char === "\n") {
      const hard = / {2,}$|\\$/.test(plain);
      plain = plain.replace(/ +$|\\$/, "");
      if (hard) add(el("br"), i + 1);
      else {
        plain += "\n";
        i++;
      }
    } else if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) {
      plain += text[i + 1];
      i += 2;
    } else if (char === "`") {
      const mark = /`+/y;
      mark.lastIndex = i;
      const run = mark.exec(text)[0];
      const end = missing.has(run) ? -1 : closing(text, run, i + run.length);
      if (end < 0) {
        missing.add(run);
        plain += run;
        i += run.length;
      } else {
        const code = text.slice(i + run.length, end).replaceAll("\n", " ");
        const trimmed = /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code;
        add(el("code", {}, trimmed), end + run.length);
      }
    } else if (char === "[") {
      LINK.lastIndex = i;
      const match = LINK.exec(text);
      const address = match && safe(match[2]);
      if (address && depth < DEEPEST) add(inline(link(address), match[1], DEEPEST), LINK.lastIndex);
      else {
        plain += char;
        i++;
      }
    } else if (char === "h" && !/\w$/.test(plain) && depth < DEEPEST) {
      ADDRESS.lastIndex = i;
      const found = ADDRESS.exec(text)?.[0].replace(/[.,;:!?)\]}*_]+$/, "");
      const address = found && safe(found);
      if (address) add(el("a", linkProps(address), found), i + found.length);
      else {
        plain += char;
        i++;
      }
    } else if (char === "<" && AUTOLINK.test(text.slice(i, i + 2010))) {
      const found = AUTOLINK.exec(text.slice(i, i + 2010))[1];
      const address = depth < DEEPEST && safe(found);
      if (address) add(el("a", linkProps(address), found), i + found.length + 2);
      else {
        plain += char;
        i++;
      }
    } else if (char === "<" && /^<br\s*\/?>/i.test(text.slice(i, i + 8))) {
      add(el("br"), text.indexOf(">", i) + 1);
    } else {
      const span = depth < DEEPEST && emphasis(text, i, missing);
      if (span) add(inline(el(span.tag), span.inner, depth + 1), span.end);
      else {
        plain += char;
        i++;
      }
    }
  }
  flush();
  return parent;
}

function closing(text, run, from) {
  for (let at = text.indexOf(run, from); at >= 0; at = text.indexOf(run, at + 1)) {
    if (text[at - 1] !== "`" && text[at + run.length] !== "`") return at;
    while (text[at + 1] === "`") at++;
  }
  return -1;
}

function emphasis(text, i, missing) {
  for (const [mark, tag] of SPANS) {
    if (!text.startsWith(mark, i) || missing.has(mark)) continue;
    const after = text[i + mark.length];
    if (after === undefined || /\s/.test(after)) continue;
    if (mark[0] === "_" && /\w/.test(text[i - 1] ?? "")) continue;
    let end = text.indexOf(mark, i + mark.length + 1);
    for (; end >= 0; end = text.indexOf(mark, end + 1)) {
      if (/\s/.test(text[end - 1])) continue;
      if (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "")) continue;
      if (mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark)) continue;
      break;
    }
    if (end < 0) {
      missing.add(mark);
      continue;
    }
    while (mark.length === 2 && text[end + 2] === mark[0]) end++; // ***both***
    return { tag, inner: text.slice(i + mark.length, end), end: end + mark.length };
  }
  return null;
}

function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function linkProps(address) {
  return { href: address, target: "_blank", rel: "noopener noreferrer nofollow" };
}

function link(address) {
  return el("a", linkProps(address));
}
