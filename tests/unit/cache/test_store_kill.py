"""A process that is killed while it writes leaves whole records, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.cache import kill_writer
from tests.unit.cache.kill_writer import CAPACITY, MOST, NUMBERS
from tests.unit.cache.records import files, key_of, kind_of, opened, payload_of


@pytest.mark.parametrize(
    "kills", [pytest.param(60, id="60"), pytest.param(400, id="400", marks=pytest.mark.slow)]
)
def test_killed_at_any_moment(tmp_path: Path, kills: int) -> None:
    expected = {i: payload_of(i, MOST) for i in range(NUMBERS)}
    draw = random.Random(kills)
    records = halves = evictions = 0
    before: set[Path] = set()
    for seed in range(8 * kills):
        if seed >= kills and halves:  # a quick machine seldom leaves a half; one has to be seen
            break
        command = [sys.executable, kill_writer.__file__, str(tmp_path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            if draw.random() < 0.8:
                assert child.stdout.readline() == b"open\n"
                time.sleep(draw.uniform(0, 0.05))
            else:  # perhaps before or while it opens the store
                time.sleep(draw.uniform(0, 0.2))
            child.kill()
        after = set(files(tmp_path))
        halves += sum(path.suffix == ".part" for path in after)
        evictions += len(before - after)
        with opened(tmp_path, CAPACITY) as store:
            before = set(files(tmp_path))
            assert not any(path.suffix == ".part" for path in before)
            assert store.stats.records == len(before) and store.stats.bytes <= CAPACITY
            found = 0
            for number, payload in expected.items():
                got = store.get(kind_of(number), key_of(number))
                assert got is None or got == payload
                found += got is not None
            assert store.stats.damaged == 0 and found == len(before)
            records += found
    print(f"{kills} kills: {records} records read, {halves} half-written, {evictions} evicted")
    assert records > 10 * kills and halves > 0 and evictions > kills
