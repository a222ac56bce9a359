"""A process that writes records until it is killed: `python kill_writer.py FOLDER SEED`.

It prints a line when the store is open. Records are put in random order, some read, the oldest
evicted: whatever a store does, it may be killed at.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.unit.cache.records import BINDING, key_of, kind_of, payload_of

from dsv4.cache.store import Store

NUMBERS = 200
CAPACITY = 6_000_000
MOST = 150_000


def main(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    payloads = {i: payload_of(i, MOST) for i in draw.sample(range(NUMBERS), 60)}
    store = Store(folder, BINDING, CAPACITY)
    print("open", flush=True)
    while True:
        number = draw.choice(list(payloads))
        payload = payloads[number]
        cut = draw.randrange(len(payload) + 1)
        store.put(kind_of(number), key_of(number), [payload[:cut], memoryview(payload)[cut:]])
        if draw.random() < 0.2:
            number = draw.randrange(NUMBERS)
            store.get(kind_of(number), key_of(number))
        if draw.random() < 0.8:
            store.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
