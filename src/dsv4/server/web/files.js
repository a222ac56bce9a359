// Files and folders as context: what is read, what is passed over, and why.

const FOLDERS = new Set(
  `.git .hg .svn .idea .vscode .venv venv node_modules bower_components __pycache__ .mypy_cache
  .pytest_cache .ruff_cache .tox .cache .next .nuxt .gradle target dist build out coverage`.split(/\s+/),
);
const NAMES = new Set([".DS_Store", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "Cargo.lock", "poetry.lock", "uv.lock"]);
const BINARY = /\.(png|jpe?g|gif|webp|avif|ico|bmp|tiff?|pdf|zip|gz|bz2|xz|zst|tar|7z|rar|jar|whl|so|dll|dylib|exe|bin|o|a|class|pyc|wasm|woff2?|ttf|otf|eot|mp[34]|m4a|wav|flac|ogg|webm|mov|avi|sqlite3?|db|safetensors|gguf|pt|onnx|npy|npz|parquet)$/i;
export const MOST_BYTES = 2 << 20;
export const MOST_FILES = 2000;

/** Why a path is passed over, or null. */
function skipped(path) {
  const parts = path.split("/");
  const folder = parts.slice(0, -1).find((part) => FOLDERS.has(part));
  if (folder) return `inside ${folder}`;
  if (NAMES.has(parts.at(-1))) return "generated";
  return BINARY.test(path) ? "binary" : null;
}

/** Files of a drop, folders walked through: `[{path, file}]`, and the skipped `[{path, why}]`. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return { files: [...transfer.files].map((file) => ({ path: file.name, file })), skipped: [] };
  const files = [];
  const passed = [];
  const walk = async (entry) => {
    const path = entry.fullPath.replace(/^\//, "");
    if (entry.isFile) {
      files.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
    } else if (FOLDERS.has(entry.name)) {
      passed.push({ path: `${path}/`, why: "folder" });
    } else {
      const reader = entry.createReader();
      while (files.length <= MOST_FILES) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        for (const inner of some) await walk(inner);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return { files, skipped: passed };
}

/** Files of an input, which may stand for a folder. */
export function chosen(input) {
  return [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** The texts among files: `{texts: [{path, text}], skipped: [{path, why}]}`. */
export async function read(files) {
  const texts = [];
  const passed = [];
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  for (const { path, file } of files) {
    const why =
      skipped(path) ??
      (file.size > MOST_BYTES ? "larger than 2 MiB" : null) ??
      (texts.length >= MOST_FILES ? `more than ${MOST_FILES} files` : null);
    const text = why ? null : await textOf(file);
    if (why || text === null) passed.push({ path, why: why ?? "binary" });
    else if (!text.trim()) passed.push({ path, why: "empty" });
    else texts.push({ path, text });
  }
  return { texts, skipped: passed };
}

/** A file's text; null if it is binary or cannot be read. */
async function textOf(file) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (bytes.subarray(0, 8192).includes(0)) return null;
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** A question with its files, in the form DeepSeek recommends for file uploads. */
export function withFiles(text, files) {
  const parts = files.map(
    (file) => `[file name]: ${file.path}\n[file content begin]\n${file.text}\n[file content end]\n`,
  );
  return parts.join("") + text;
}
