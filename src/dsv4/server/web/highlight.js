// Colours for code: comments, strings, numbers and words most languages know. It reads no grammar.

const WORDS = new Set(
  `abstract and as assert async await bool boolean break case catch char class const constexpr
  continue def default defer del do double elif else end enum except export extends extern false
  finally float fn for from func function go global if impl implements import in int interface is
  lambda let long loop match mod module mut namespace new nil None not null nullptr of or override
  package pass private protected pub public raise return self short static string struct super
  switch template this throw trait true True False try type typedef typeof union unsigned use using
  var virtual void volatile where while with yield select insert update delete create table join on
  group order by limit SELECT FROM WHERE INSERT UPDATE DELETE CREATE TABLE JOIN GROUP ORDER BY`.split(
    /\s+/,
  ),
);
const HASH = /^(py|python|sh|bash|zsh|shell|rb|ruby|toml|yaml|yml|r|perl|make|makefile|dockerfile)$/i;
const NONE = /^(text|txt|plain|plaintext|markdown|md|diff|output|console)$/i;
const MOST = 50_000;

const pattern = (comment) =>
  new RegExp(
    `(?<comment>${comment})` +
      `|(?<string>"""[^]*?(?:"""|$)|"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)*'?|\`(?:[^\`\\\\]|\\\\.)*\`?)` +
      "|(?<number>\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b)" +
      "|(?<word>[A-Za-z_$][\\w$]*)",
    "g",
  );
const SLASHES = pattern("\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)");
const HASHES = pattern("#[^\\n]*");

/** Nodes for a code block in a language, which may be unknown. */
export function highlight(code, language) {
  if (code.length > MOST || NONE.test(language)) return [document.createTextNode(code)];
  const nodes = [];
  let at = 0;
  for (const match of code.matchAll(HASH.test(language) ? HASHES : SLASHES)) {
    const { comment, string, number, word } = match.groups;
    const kind = comment ? "comment" : string ? "string" : number ? "number" : WORDS.has(word) ? "word" : null;
    if (!kind) continue;
    if (match.index > at) nodes.push(document.createTextNode(code.slice(at, match.index)));
    const span = document.createElement("span");
    span.className = `hl-${kind}`;
    span.textContent = match[0];
    nodes.push(span);
    at = match.index + match[0].length;
  }
  nodes.push(document.createTextNode(code.slice(at)));
  return nodes;
}
