"""What the web page makes of text: Markdown, hostile answers, files and folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.browsing import Page
from tests.serving import Build, served
from tests.system.test_page import asked

Open = Callable[..., Page]

CODE = '<div class="code"><pre tabindex="0"><code>'
RENDER = """
const [text, pieces] = arguments;
return import('/web/markdown.js').then(({ Markdown }) => {
  const root = document.createElement('div');
  const shown = new Markdown(root);
  for (let end = 0; end < text.length; end += Math.ceil(text.length / pieces)) {
    shown.update(text.slice(0, end));
  }
  shown.update(text);
  return root.innerHTML.replaceAll(/<div class="code-head">.*?<\\/div>/g, '');
});
"""

HOSTILE = """\
<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">

[click](javascript:window.pwned=3) [data](data:text/html,<script>window.pwned=4</script>)
<a href="javascript:window.pwned=5">a</a> <javascript:window.pwned=6>
[x](JaVaScRiPt:alert`7`) [y](  java\tscript:alert(8)) ![i](https://evil.example/x.png)

```"><img src=x onerror=window.pwned=9>
</code></pre><script>window.pwned = 10</script>
```

| <b onmouseover=window.pwned=11>x</b> | y |
|---|---|
| `<svg onload=window.pwned=12>` | <iframe src=//evil.example> |

# <style>body { display: none }</style>
- [ok](https://example.com/"onclick="window.pwned=13) https://example.com/<script>
"""


@pytest.fixture
def blank(page: Open, scripted: Build) -> Page:
    return page(scripted("x"))


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("hard  \nbreak<br>more", "<p>hard<br>break<br>more</p>"),
        ("# Title #\ntext", "<h3>Title</h3><p>text</p>"),
        (
            "a **b *c* d** _e_ ~~f~~",
            "<p>a <strong>b <em>c</em> d</strong> <em>e</em> <del>f</del></p>",
        ),
        ("2 * 3 * 4, snake_case_name, a*b", "<p>2 * 3 * 4, snake_case_name, a*b</p>"),
        ("***both***", "<p><strong><em>both</em></strong></p>"),
        (r"\*not\* \`it\`", "<p>*not* `it`</p>"),
        ("`a*b*` ``c`d``", "<p><code>a*b*</code> <code>c`d</code></p>"),
        (
            "- a\n- b\n  - c\n\n  more\n- d",
            "<ul><li>a</li><li>b<ul><li>c</li></ul><p>more</p></li><li>d</li></ul>",
        ),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("> q\n> - i\n\np", "<blockquote><p>q</p><ul><li>i</li></ul></blockquote><p>p</p>"),
        ("a\n***\nb", "<p>a</p><hr><p>b</p>"),
        (
            "```\n<a>\n\n# no\n```\nafter",
            CODE + "&lt;a&gt;\n\n# no</code></pre></div><p>after</p>",
        ),
        (
            "1. x\n   ```py\n   y\n     z\n   ```\n2. w",
            f'<ol start="1"><li>x{CODE}y\n  z</code></pre></div></li><li>w</li></ol>',
        ),
        (
            "|a|b|\n|:-|-:|\n|1 \\| 2|3|",
            '<div class="table" tabindex="0"><table><thead><tr><th class="left">a</th>'
            '<th class="right">b</th></tr></thead><tbody><tr><td class="left">1 | 2</td>'
            '<td class="right">3</td></tr></tbody></table></div>',
        ),
        (
            "[a](https://e.com/x_(y)) <https://e.com/a_b>, https://e.com/c.",
            "<p>LINK(https://e.com/x_(y))a</a> LINK(https://e.com/a_b)https://e.com/a_b</a>, "
            "LINK(https://e.com/c)https://e.com/c</a>.</p>",
        ),
        ("[a](ftp://e.com) [b](/local)", "<p>[a](ftp://e.com) [b](/local)</p>"),
        (
            "```py\nunclosed",
            '<div class="code"><pre tabindex="0"><code>unclosed</code></pre></div>',
        ),
        ("&lt;b&gt; <b>", "<p>&amp;lt;b&amp;gt; &lt;b&gt;</p>"),
    ],
)
def test_markdown(blank: Page, text: str, markup: str) -> None:
    def rendered(pieces: int) -> str:
        html = str(blank.run(RENDER, text, pieces))
        start = '<a href="'
        end = '" target="_blank" rel="noopener noreferrer nofollow">'
        return html.replace(end, ")").replace(start, "LINK(")

    assert rendered(1) == markup
    assert rendered(len(text)) == markup  # however it arrives


def test_long_and_twisted_text_is_rendered_at_once(blank: Page) -> None:
    for unit in ("*", "_a", "[", "[a](", "`", "``a", "> ", "- ", "|", "a\n", "**a ", "<", "```\n"):
        spent = blank.run(
            "const [text] = arguments; const start = performance.now();"
            "return import('/web/markdown.js').then(({ Markdown }) => {"
            "  new Markdown(document.createElement('div')).update(text);"
            "  return performance.now() - start; });",
            unit * (30_000 // len(unit)),
        )
        assert spent < 3000, (unit, spent)


def test_model_text_stays_text(page: Open, scripted: Build) -> None:
    shown = page(scripted(HOSTILE + "</think>" + HOSTILE))
    shown.mode("high")
    shown.ask(HOSTILE.replace("\n", " ").replace("\t", " "))
    shown.click(".thinking summary")
    shown.until(lambda: shown.visible(".reasoning"))
    assert shown.run("return window.pwned") is None
    inside = "#thread :is(script, img, iframe, style, object, embed, form, b)"
    assert shown.all(inside) == []
    markup = "return document.getElementById('thread').innerHTML"
    assert (
        shown.run(
            "return [...document.querySelectorAll('#thread *')].flatMap((node) =>"
            " [...node.attributes].map((one) => one.name))"
            ".filter((name) => /^on|^style$|^src/.test(name))"
        )
        == []
    )
    links = shown.run("return [...document.querySelectorAll('#thread a')].map((a) => a.protocol)")
    assert set(links) == {"https:"}
    assert "&lt;script&gt;window.pwned = 1&lt;/script&gt;" in shown.run(markup)
    assert shown.visible("#draft")  # the style did nothing
    assert shown.complaints() == []


def test_hostile_names_and_imports(page: Open, scripted: Build, tmp_path: Path) -> None:
    shown = page(scripted("x"))
    name = "<img src=x onerror=window.pwned=1>.txt"
    (tmp_path / name).write_text("hello")
    shown.one("#file-input").send_keys(str(tmp_path / name))
    shown.until(lambda: shown.visible("#files-list li"))
    talk = (
        '{"format": "dsv4-conversations", "talks": ['
        '{"id": "a1", "title": "<b>t</b>", "mode": "x\'",'
        '"messages": [{"role": "assistant", "text": "<img src=x onerror=window.pwned=2>",'
        '"usage": {"prompt": "<b>", "output": 3}}, {"role": "user", "text": {"a": 1}}, 7]},'
        '{"id": "../evil", "messages": []}]}'
    )
    file = tmp_path / "talks.json"
    file.write_text(talk)
    shown.one("#import-file").send_keys(str(file))
    shown.until(lambda: "1 conversation imported" in shown.text("#toast"))
    shown.click(".talk")
    shown.until(lambda: shown.all(".message"))
    assert shown.run("return window.pwned") is None
    assert shown.all("#page img, #side b") == []


def test_a_folder_becomes_context(page: Open, scripted: Build, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for path, content in {
        "README.md": b"# Project",
        "src/main.py": "print('grüß')".encode(),
        "src/drop_me.py": b"pass",
        "src/blob.dat": b"a\0b",
        "logo.png": b"\x89PNG",
        "latin.txt": b"\xe9\xe8",
        "empty.txt": b"",
        "node_modules/x/index.js": b"x",
        ".git/HEAD": b"x",
        "big.txt": b"x" * (2 << 20) + b"x",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    engine = scripted("read")
    seen = asked(engine)
    shown = page(engine)
    shown.one("#folder-input").send_keys(str(folder))
    shown.until(lambda: shown.text("#files-sum") == "3 files, 28 tokens")  # bytes, counted exactly
    listed = [row.text.split() for row in shown.all("#files-list li")]
    assert listed == [
        ["project/README.md", "9"],
        ["project/src/drop_me.py", "4"],
        ["project/src/main.py", "15"],
    ]
    skipped = shown.content("#files-skipped")
    for why in ("inside node_modules", "inside .git", "binary", "empty", "larger than 2 MiB"):
        assert why in skipped
    assert shown.text("#context").startswith("≈ 28 of 4.1K")
    shown.click("[aria-label='Remove project/src/drop_me.py']")
    assert shown.text("#files-sum") == "2 files, 24 tokens"
    shown.ask("What is it?")
    assert seen[-1].messages[-1]["content"] == (
        "[file name]: project/README.md\n[file content begin]\n# Project\n[file content end]\n"
        "[file name]: project/src/main.py\n[file content begin]\nprint('grüß')\n"
        "[file content end]\nWhat is it?"
    )
    assert not shown.visible("#files")
    assert shown.text(".user .attached summary") == "2 files\n24 tokens"
    shown.ask("And again?")  # the files stay part of the conversation
    assert "print('grüß')" in seen[-1].messages[0]["content"]


def test_files_can_be_dropped(page: Open, scripted: Build) -> None:
    shown = page(scripted("x"))
    shown.run(
        "const data = new DataTransfer();"
        "data.items.add(new File(['hello'], 'note.txt'));"
        "for (const kind of ['dragenter', 'dragover', 'drop']) {"
        "  document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));"
        "}"
    )
    shown.until(lambda: shown.text("#files-sum") == "1 file, 5 tokens")
    assert not shown.visible("#drop")
    shown.click("#files-clear")
    assert not shown.visible("#files")


def test_code_and_answers_are_copied(page: Open, scripted: Build) -> None:
    shown = page(scripted("```py\nx = 1\n```\nand **bold**"))
    shown.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": shown.base},
    )
    shown.ask("hello")
    copied = "return navigator.clipboard.readText()"
    shown.click(".code [aria-label='Copy the code']")
    shown.until(lambda: shown.run(copied) == "x = 1")
    shown.click(".assistant .actions [aria-label=Copy]")
    shown.until(lambda: shown.run(copied) == "```py\nx = 1\n```\nand **bold**")


def test_storage_that_is_full_loses_files_and_no_talk(page: Open, scripted: Build) -> None:
    shown = page(scripted("x"))
    shown.run(
        "const data = new DataTransfer();"
        "data.items.add(new File(['long '.repeat(500)], 'note.txt'));"
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));"
    )
    shown.until(lambda: shown.text("#files-sum").startswith("1 file, 2,500"))
    shown.run(
        "localStorage.setItem('room', 'x'.repeat(1500));"
        "let filler = 'x'.repeat(1 << 22);"
        "for (let n = 0; filler; n++) {"
        "  try { localStorage.setItem(`filler${n}`, filler); }"
        "  catch { filler = filler.slice(Math.ceil(filler.length / 2)); }"
        "}"
        "localStorage.removeItem('room');"
    )
    shown.ask("keep")
    shown.until(lambda: "the text of dropped files is not kept" in shown.text("#toast"))
    shown.open()
    shown.click(".talk")
    assert shown.text(".user .text") == "keep"
    assert "text no longer kept" in shown.text(".user .attached")


def test_stream_parsing_whatever_the_cuts(blank: Page) -> None:
    found = blank.run(
        """
        return import('/web/api.js').then(async ({ serverSentEvents }) => {
          const bytes = new TextEncoder().encode(
            ': keep-alive\\n\\ndata: {"a": "ü€😀"}\\r\\n\\r\\n' +
            'event: x\\ndata:1\\ndata: 2\\n\\ndata: [DONE]\\n\\n');
          const results = new Set();
          for (const size of [1, 2, 3, 7, 1000]) {
            const stream = new ReadableStream({ start(controller) {
              for (let at = 0; at < bytes.length; at += size) {
                controller.enqueue(bytes.slice(at, at + size));
              }
              controller.close();
            } });
            const events = [];
            for await (const event of serverSentEvents(stream)) events.push(event);
            results.add(JSON.stringify(events));
          }
          return [...results].map(JSON.parse);
        });
        """
    )
    assert found == [['{"a": "ü€😀"}', "1\n2", "[DONE]"]]


def test_the_files_are_served_with_care(scripted: Build) -> None:
    with served(scripted("x")) as base:
        index = httpx.get(base)
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        policy = index.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert index.headers["x-content-type-options"] == "nosniff"
        headers = {"If-None-Match": index.headers["etag"]}
        again = httpx.get(base, headers=headers)
        assert again.status_code == 304 and not again.content
        assert httpx.head(base).status_code == 200
        for path in ("none.js", "..%2Fpage.py", "../page.py", "%2e%2e/page.py"):
            assert httpx.get(f"{base}/web/{path}").status_code == 404
        about = httpx.get(f"{base}/web/about.json").json()
        assert about["thinking"] is False
        assert {row["name"] for row in about["prices"]} == {"deepseek-v4-flash", "deepseek-v4-pro"}


def test_nothing_is_fetched_from_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "src" / "dsv4" / "server" / "web"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        for line in text.splitlines():
            addresses = "//" in line and ("src=" in line or "href=" in line or "url(" in line)
            assert not addresses or "http://www.w3.org" in line, (file.name, line)
        assert "innerHTML" not in text and "eval(" not in text and "insertAdjacent" not in text
