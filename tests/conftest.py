"""What every test relies on: one torch thread, nothing fetched, repeatable numbers.

`tiny_folder` is a random model with a byte vocabulary on disk, `scripted` an engine whose model
says what the test wants: between them, everything above the model is tested without a trained
one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: small tensors are faster on one thread, and results do not depend
# on how many cores the machine has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

if TYPE_CHECKING:
    from dsv4.chat.engine import Engine


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed torch from the name of the test, so that a test draws the same numbers alone."""
    import sys
    import zlib

    if "torch" in sys.modules:
        import torch

        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
    yield


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C is Python's own before every test, also in a job that a script starts in the
    background, which ignores it; one that leaves another handler behind fails itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def byte_vocabulary() -> dict[str, Any]:
    """A tokenizer.json of V4's kind with no merges: every byte is a token."""
    from tokenizers import pre_tokenizers

    from dsv4.encoding.control import CONTROL_TOKENS

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = len(CONTROL_TOKENS)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": i < 2,
            }
            for i, token in enumerate(CONTROL_TOKENS)
        ],
        "pre_tokenizer": {**level, "use_regex": False},
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {char: first + i for i, char in enumerate(alphabet)},
            "merges": [],
        },
    }


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the released layout: the `tiny` architecture, random weights, bytes as
    vocabulary. Read-only by agreement."""
    import dataclasses
    import json

    from dsv4 import checkpoint
    from dsv4.presets import preset

    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = byte_vocabulary()
    size = len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"])
    config = dataclasses.replace(preset("tiny"), vocab_size=size, max_position_embeddings=4096)
    checkpoint.synth(config, folder, seed=1)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 0.8, "max_new_tokens": 16, "thinking": False}),
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def scripted(tiny_folder: Path) -> Callable[..., Engine]:
    """scripted(text, ...) -> an Engine whose model answers with that text, whatever is asked.

    Control strings in the text become control tokens. `delay` seconds pass before each token;
    `options` are those of Engine.
    """
    import time

    import torch

    from dsv4.chat.engine import Engine
    from dsv4.chat.model import Model
    from dsv4.config import load
    from dsv4.encoding.prompt import PromptBuilder
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.model.blocks import BlockTable, Layout
    from dsv4.model.transformer import Output, Piece

    config = load(tiny_folder)
    tokenizer = Tokenizer.from_folder(tiny_folder)

    class State:
        """Counts the tokens it has seen; the script begins after the last longer piece."""

        ring_bytes = 0
        length = steps = 0
        table = BlockTable(Layout((), 0), 1)

    class Scripted:
        """Stands in for a Transformer: after a prompt, step n predicts id n of the script."""

        from dsv4.numerics.policy import EXACT as numerics

        mtp = ()
        streams_tables = False
        ngrams = None

        def __init__(self, ids: list[int], delay: float) -> None:
            self.config, self._ids, self._delay = config, ids, delay

        def new_state(self) -> State:
            return State()

        def forward_many(self, pieces: Sequence[Piece]) -> list[Output]:
            time.sleep(self._delay)
            return [self._one(piece) for piece in pieces]

        def _one(self, piece: Piece) -> Output:
            state: Any = piece.state
            state.steps = 0 if len(piece.ids_T) > 1 else state.steps + 1
            state.length += len(piece.ids_T)
            logits = torch.full((1, 1, config.vocab_size), -30.0)
            logits[0, 0, self._ids[min(state.steps, len(self._ids) - 1)]] = 30.0
            return Output(logits[:, : piece.wanted], torch.empty(1, 0), ())

    def build(text: str, *, delay: float = 0.0, **options: int) -> Engine:
        builder = PromptBuilder()
        builder.template(text)
        ids = [*tokenizer.encode_prompt(builder.build()), tokenizer.eos_id]
        model = Scripted(ids, delay)
        return Engine(Model("scripted", tiny_folder, model), **options)  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need one are skipped where there is none."""
    from tests.browsing import start_browser

    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[..., Any]]:
    """page(engine, accounts, settings) -> the web page of a server for that engine.

    It waits until the page knows the server, unless `connected` is false.
    """
    from contextlib import ExitStack

    from tests.browsing import Page
    from tests.serving import served

    with ExitStack() as servers:

        def build(*arguments: Any, connected: bool = True) -> Page:
            return Page(browser, servers.enter_context(served(*arguments)), connected)

        yield build
        browser.get("about:blank")  # closes its connections before the servers end
