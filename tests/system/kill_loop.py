"""Run by test_kill.py: an engine with a cache folder, killed again and again at any moment.

    kill_loop.py FOLDER KILLS SEED

Every child opens the folder, answers the same requests in another order and compares each token
with what a child without a cache answered. Prints one JSON object; exits with 1 if a token was
wrong. Children are forked from a process that has loaded everything but computed nothing, so
that one takes milliseconds to start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.parity.models import FLASH_LIKE, draw_config, draw_model

from dsv4.cache.store import Store
from dsv4.engine.core import Core
from dsv4.engine.memory import Checkpoints, Memory
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sampler import GREEDY
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import by_name

BINDING = b"the model of kill_loop.py"
WRONG = 3
"""Exit status of a child that got a wrong token."""


def requests(model: Transformer) -> list[Generation]:
    draw, vocabulary = random.Random(5), range(2, model.config.vocab_size)
    stem = draw.choices(vocabulary, k=700)
    return [
        Generation(
            tuple(stem[: draw.choice([130, 400, 700])] + draw.choices(vocabulary, k=i * 40 + 5)),
            8,
            sampling=GREEDY,
        )
        for i in range(8)
    ]


def answers(core: Core, asked: list[Generation]) -> tuple[list[list[int]], int]:
    """What each is answered, and how many tokens came from the cache."""
    found: list[list[int]] = []
    cached = 0
    for generation in asked:
        tokens: list[int] = []

        def take(event: Event | Exception, tokens: list[int] = tokens) -> None:
            nonlocal cached
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Token):
                tokens.append(event.id)
            elif isinstance(event, Finish):
                cached += event.cached

        core.add(generation, take)
        while core.busy:
            core.step()
        found.append(tokens)
    return found, cached


def child(model: Transformer, folder: Path, seed: int, want: list[list[int]]) -> tuple[int, int]:
    """Answer everything in some order; (exit status, tokens from the cache)."""
    asked = requests(model)
    order = random.Random(seed).sample(range(len(asked)), len(asked))
    with_windows = Checkpoints(128 if seed % 2 else None)
    store = Store(folder, BINDING, 1 << 30)
    memory = Memory(model, 1 << 30, binding=BINDING, checkpoints=with_windows, store=store)
    core = Core(model, memory, speculation="on" if seed % 3 else "off")
    found, cached = answers(core, [asked[i] for i in order])
    right = found == [want[i] for i in order]
    store.close()
    return (0 if right else WRONG), cached


def main() -> int:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = draw_model(draw_config(3, FLASH_LIKE), 3).requires_grad_(False)
    model.numerics = by_name("fast")
    want_file = folder / "want.json"
    if os.fork() == 0:
        plain = Core(model, Memory(model, 1 << 30), speculation="off")
        want_file.write_text(json.dumps([answers(plain, [g])[0][0] for g in requests(model)]))
        os._exit(0)
    os.wait()
    want = json.loads(want_file.read_text())
    draw = random.Random(seed)
    killed = finished = wrong = 0
    for i in range(kills):
        pid = os.fork()
        if pid == 0:
            os._exit(child(model, folder / "kv", seed + i, want)[0])
        time.sleep(draw.choice([0.02, 0.1, 0.4]) * draw.random())
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        finished += status == 0
        wrong += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
    last, cached = child(model, folder / "kv", 1, want)
    print(json.dumps({"killed": killed, "finished": finished, "wrong": wrong, "cached": cached}))
    return int(wrong > 0 or last != 0)


if __name__ == "__main__":
    sys.exit(main())
