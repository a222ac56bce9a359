"""The web page in a real browser: asking, stopping, changing one's mind."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.browsing import Keys, Page
from tests.serving import Build

from dsv4.server.accounts import Keys as ApiKeys
from dsv4.server.ledger_file import open_ledger
from dsv4.server.settings import Settings

Open = Callable[..., Page]


def asked(engine: Any) -> list[Any]:
    """The requests that an engine gets from now on."""
    seen: list[Any] = []
    prepare = engine.prepare

    def note(request: Any) -> Any:
        seen.append(request)
        return prepare(request)

    engine.prepare = note
    return seen


def test_an_answer_streams_in(page: Open, scripted: Build) -> None:
    shown = page(scripted("slowly " * 40, delay=0.01))
    shown.send("hello")
    seen = shown.until(
        lambda: shown.text(".assistant .markdown") if shown.all(".assistant") else ""
    )
    assert shown.visible("#stop") and not shown.visible("#send")
    shown.finished()
    assert len(seen) < len(shown.text(".assistant .markdown")) == len("slowly " * 40) - 1
    assert shown.text(".user .text") == "hello"
    assert "280 tokens" in shown.text(".assistant .facts")
    assert "tokens/s" in shown.text(".assistant .facts")
    assert "tokens" in shown.text("#context") and shown.text("#cached") == "0 % cached"
    assert shown.text("#cost").startswith("$0.000")
    assert shown.complaints() == []


def test_thinking_is_folded_with_a_clock(page: Open, scripted: Build) -> None:
    shown = page(scripted("because " * 20 + "</think>**42**", delay=0.01))
    shown.mode("high")
    shown.send("why?")
    shown.until(lambda: shown.visible(".thinking.live summary"))
    first = shown.until(lambda: shown.text(".thinking summary"))
    shown.until(lambda: shown.text(".thinking summary") not in (first, ""))
    assert first.startswith("Thinking for ")
    assert not shown.visible(".reasoning")
    shown.finished()
    assert shown.text(".thinking summary").startswith("Thought for ")
    assert shown.text(".assistant .markdown strong") == "42"
    shown.click(".thinking summary")
    shown.until(lambda: shown.text(".reasoning").startswith("because because"))


@pytest.mark.parametrize(("mode", "effort"), [("none", "none"), ("high", "high"), ("max", "max")])
def test_modes(page: Open, scripted: Build, mode: str, effort: str) -> None:
    engine = scripted("a</think>b")
    seen = asked(engine)
    shown = page(engine)
    shown.mode(mode)
    shown.ask("hello")
    assert seen[-1].effort == effort
    shown.open()
    assert shown.one(f"input[value={mode}]").is_selected()  # kept for the next conversation


def test_stop(page: Open, scripted: Build) -> None:
    engine = scripted("word " * 500, delay=0.01)
    shown = page(engine)
    for stop in (lambda: shown.click("#stop"), lambda: shown.press(Keys.ESCAPE)):
        shown.send("go")
        shown.until(lambda: shown.all(".assistant")[-1].text.startswith("word"))
        stop()
        shown.finished()
        assert "stopped" in shown.all(".facts")[-1].text
        shown.until(lambda: engine.service.running == 0, 5)


def test_retry_replaces_the_answer(page: Open, scripted: Build) -> None:
    engine = scripted("again")
    seen = asked(engine)
    shown = page(engine)
    shown.ask("hello")
    shown.ask("more")
    buttons = shown.all(".assistant [aria-label='Try again']")
    # Only the last: an earlier one would take back what follows.
    assert [button.is_displayed() for button in buttons] == [False, True]
    buttons[1].click()
    shown.until(lambda: len(seen) == 3)
    shown.finished()
    assert len(shown.all(".assistant")) == 2
    assert [m["role"] for m in seen[-1].messages] == ["user", "assistant", "user"]


def test_a_message_can_be_edited(page: Open, scripted: Build) -> None:
    engine = scripted("fine")
    seen = asked(engine)
    shown = page(engine)
    shown.ask("first")
    shown.ask("second")
    shown.run("document.querySelectorAll('.user [aria-label=Edit]')[0].click()")
    shown.one(".edit textarea").send_keys(" changed", Keys.ENTER)
    shown.until(lambda: len(seen) == 3)
    shown.finished()
    assert [dict(m) for m in seen[-1].messages] == [{"role": "user", "content": "first changed"}]
    assert [e.text for e in shown.all(".user .text")] == ["first changed"]
    shown.one("#draft").send_keys(Keys.ARROW_UP)  # edits the last message
    shown.one(".edit textarea").send_keys("never", Keys.ESCAPE)
    assert [e.text for e in shown.all(".user .text")] == ["first changed"]


def test_the_conversation_system_prompt_and_settings_are_sent(page: Open, scripted: Build) -> None:
    engine = scripted("yes")
    seen = asked(engine)
    shown = page(engine)
    shown.setting("#system", "Be brief.")
    assert shown.text("#system-line") == "System prompt: Be brief."
    shown.setting("#temperature", "0.3")
    shown.setting("#max-tokens", "77")
    shown.ask("one")
    shown.ask("two")
    request = seen[-1]
    assert [dict(m) for m in request.messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "two"},
    ]
    assert request.sampling.temperature == 0.3 and request.max_tokens == 77


def test_conversations_are_kept(page: Open, scripted: Build, tmp_path: Path) -> None:
    shown = page(scripted("**kept**"))
    shown.ask("remember me")
    shown.click("#new")
    assert shown.all(".message") == []
    shown.open()
    shown.click(".talk")
    assert shown.text(".assistant strong") == "kept"
    exported = shown.run("return import('/web/talks.js').then((talks) => talks.exported())")
    saved = json.loads(exported)
    assert saved["talks"][0]["messages"][0]["text"] == "remember me"
    shown.run("window.confirm = () => true")
    shown.run("document.querySelector('[aria-label^=Delete]').click()")
    shown.until(lambda: not shown.all(".talk"))
    file = tmp_path / "talks.json"
    file.write_text(exported)
    shown.one("#import-file").send_keys(str(file))
    shown.until(lambda: "1 conversation imported" in shown.text("#toast"))
    shown.click(".talk")
    assert shown.text(".user .text") == "remember me"
    file.write_text('{"format": "other"}')
    shown.one("#import-file").send_keys(str(file))
    shown.until(lambda: "holds no conversations" in shown.text("#toast"))


def test_a_conversation_goes_on_while_another_is_read(page: Open, scripted: Build) -> None:
    shown = page(scripted("word " * 100, delay=0.01))
    shown.send("long")
    shown.until(lambda: shown.visible("#stop"))
    shown.click("#new")
    assert shown.visible("#send")
    shown.click(".talk")
    assert shown.visible("#stop")
    shown.finished()
    assert shown.text(".assistant .markdown").count("word") == 100


def test_a_busy_server_says_when_to_come_back(page: Open, scripted: Build) -> None:
    shown = page(scripted("word " * 400, delay=0.01), None, Settings(per_key=1))
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": True}
    url, leave = f"{shown.base}/v1/chat/completions", threading.Event()
    here = threading.Event()

    def occupy() -> None:
        with httpx.stream("POST", url, json={**body, "max_tokens": 2000}, timeout=60) as answer:
            for _ in answer.iter_lines():
                here.set()
                if leave.is_set():
                    return

    other = threading.Thread(target=occupy)
    other.start()
    here.wait(10)
    shown.send("hello")
    shown.until(lambda: shown.visible(".error"))
    assert "The server is busy" in shown.text(".error")
    assert "Try again in " in shown.text(".error button")
    assert not shown.one(".error button").is_enabled()
    leave.set()
    other.join()
    shown.until(lambda: shown.one(".error button").is_enabled())
    shown.click(".error button")
    shown.until(lambda: shown.text(".assistant .markdown").startswith("word"))
    assert not shown.visible(".error")
    shown.click("#stop")
    shown.finished()


def test_an_api_key_is_asked_for(page: Open, scripted: Build) -> None:
    shown = page(scripted("let in"), ApiKeys(("sk-right-1234",)), connected=False)
    shown.until(lambda: shown.visible("#login"))
    shown.type("#login-key", "sk-wrong-1234")
    shown.click("#login .primary")
    shown.until(lambda: shown.one("#login-key").get_property("value") == "")  # asked again
    assert "Authentication Fails" in shown.text("#login-why")
    shown.type("#login-key", "sk-right-1234")
    shown.click("#login .primary")
    shown.until(lambda: shown.text("#model") == "scripted")
    assert shown.ask("hello") == "let in"
    shown.run("localStorage.setItem('dsv4.key', 'sk-old-1234')")  # a key that was withdrawn
    shown.send("again")
    shown.until(lambda: shown.visible("#login"))
    assert "An API key is needed" in shown.all(".error")[-1].text
    shown.press(Keys.ESCAPE)


def test_a_spent_budget_says_so(page: Open, scripted: Build, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = 'name = "ann"\nkey = "sk-ann-0001"\nbudget = 0\n'
    file.write_text(f'price = "deepseek-v4-pro"\n[[key]]\n{key}')
    with closing(open_ledger(file)) as ledger:
        shown = page(scripted("x"), ledger, connected=False)
        shown.until(lambda: shown.visible("#login"))
        shown.type("#login-key", "sk-ann-0001")
        shown.click("#login .primary")
        shown.until(lambda: shown.text("#model") == "scripted")
        shown.send("hello")
        shown.until(lambda: shown.visible(".error"))
        assert "The balance is used up\nInsufficient Balance" in shown.text(".error")


def test_the_connection_is_lost(page: Open, scripted: Build) -> None:
    shown = page(scripted("back again"))
    network = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    shown.driver.execute_cdp_cmd("Network.enable", {})
    shown.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    shown.send("hello")
    shown.until(lambda: shown.visible(".error"))
    assert "cannot be reached" in shown.text(".error")
    shown.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": False})
    shown.click(".error button")
    shown.until(lambda: shown.text(".assistant .markdown") == "back again")
    assert len(shown.all(".user")) == len(shown.all(".assistant")) == 1


def test_a_refused_request_says_why(page: Open, scripted: Build) -> None:
    shown = page(scripted("x"))
    shown.run("document.getElementById('draft').value = 'long '.repeat(2000)")
    shown.send("!")
    shown.until(lambda: shown.visible(".error"))
    assert "context is 4096 tokens" in shown.text(".error")
    # The failed answer is no part of what is asked next.
    assert shown.text("#context").startswith("≈")


def test_it_is_used_with_the_keyboard(page: Open, scripted: Build) -> None:
    shown = page(scripted("ok"))
    shown.one("#draft").send_keys("two", Keys.SHIFT + Keys.ENTER)
    shown.one("#draft").send_keys("lines")
    assert shown.one("#draft").get_property("value") == "two\nlines"
    shown.one("#draft").send_keys(Keys.ENTER)
    shown.finished()
    assert shown.text(".user .text") == "two\nlines"
    active = "return document.activeElement.id"
    shown.run("document.activeElement.blur()")
    shown.press("/")
    assert shown.run(active) == "draft"
    shown.press("?n")  # in a text field these are letters
    assert shown.one("#draft").get_property("value") == "?n"
    shown.one("#draft").clear()
    shown.run("document.activeElement.blur()")
    shown.press("?")
    shown.until(lambda: shown.visible("#keys"))
    shown.press(Keys.ESCAPE)
    shown.until(lambda: not shown.visible("#keys"))
    shown.press("s")
    shown.until(lambda: shown.visible("#settings"))
    shown.press(Keys.ESCAPE)
    shown.until(lambda: not shown.visible("#settings"))
    shown.run("document.activeElement.blur()")
    shown.press("n")
    shown.until(lambda: not shown.all(".message"))


def test_themes(page: Open, scripted: Build) -> None:
    shown = page(scripted("x"))
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = shown.run(ground)
    shown.emulate(theme="dark")
    dark = shown.until(lambda: shown.run(ground) != light and shown.run(ground))
    shown.click("#theme")
    assert shown.run(ground) == light
    shown.open()
    assert shown.run(ground) == light  # kept
    shown.click("#theme")
    assert shown.run(ground) == dark
    shown.click("#theme")  # the system's again
    shown.emulate(theme="light")
    shown.until(lambda: shown.run(ground) == light)


def test_a_phone(page: Open, scripted: Build) -> None:
    shown = page(scripted("```\n" + "wide " * 60 + "\n```\n" + "unbroken" * 40))
    shown.resize(360, 700)
    shown.ask("hello")
    assert shown.run("return document.documentElement.scrollWidth") == 360
    assert shown.run("return document.getElementById('scroll').scrollWidth") <= 360
    assert not shown.visible("#side")
    shown.click("#side-open")
    shown.until(lambda: shown.visible(".talk"))
    shown.press(Keys.ESCAPE)
    shown.until(lambda: not shown.visible("#side"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(page: Open, scripted: Build, theme: str) -> None:
    shown = page(scripted("x"))
    shown.emulate(theme=theme)
    style = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"

    def light(name: str) -> float:
        color = shown.run(style, f"--{name}").strip().removeprefix("#")
        parts = [int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    grounds = {"text": "page side raised soft code", "dim": "page side raised soft code"}
    grounds |= {"accent": "page", "accent-text": "accent", "bad": "bad-soft"}
    grounds |= {f"hl-{kind}": "code" for kind in ("comment", "string", "number", "word")}
    for ink, names in grounds.items():
        for ground in names.split():
            dark, bright = sorted((light(ink), light(ground)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_everything_has_a_name(page: Open, scripted: Build) -> None:
    shown = page(scripted("a</think>```\ncode\n```"))
    shown.mode("high")
    shown.ask("hello")
    nameless = shown.run(
        "return [...document.querySelectorAll('button, input, textarea, select')].filter((one) =>"
        " !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    shown.press(Keys.TAB)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert shown.run(outline) == "solid"
