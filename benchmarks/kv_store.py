"""How fast the disk cache writes, reads, starts and hashes: `python benchmarks/kv_store.py`.

Records of `--size` bytes, `--megabytes` in all, are written, read one by one, read as a chain, and
read again after the system was asked to drop them from its memory; then a folder of `--records`
small ones is opened. Prints one JSON object; rates are in MB (10^6 bytes) per second. The folder
is made inside `--folder` and removed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from dsv4.cache.store import Store

BINDING = b"benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to put the records (default: /tmp)")
    parser.add_argument("--size", type=int, default=300_000, help="bytes of a record")
    parser.add_argument("--megabytes", type=int, default=1000, help="bytes of all, in MB")
    parser.add_argument("--records", type=int, default=100_000, help="records of the folder opened")
    args = parser.parse_args()
    result: dict[str, object] = {"size": args.size, "hash_gb_s": hashes()}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result |= rates(Path(folder) / "large", args.size, args.megabytes * 10**6 // args.size)
        result |= opening(Path(folder) / "small", args.records)
    print(json.dumps(result, indent=1))


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def hashes() -> dict[str, float]:
    """GB/s of one core."""
    data = random.Random(0).randbytes(1 << 24)
    found = {
        name: seconds(lambda name=name: hashlib.new(name, data).digest())  # type: ignore[misc]
        for name in ("sha256", "blake2b")
    }
    found["crc32"] = seconds(lambda: zlib.crc32(data))
    return {name: round(len(data) / taken / 1e9, 2) for name, taken in found.items()}


def rates(folder: Path, size: int, count: int) -> dict[str, object]:
    data = random.Random(0).randbytes(size)
    store = Store(folder, BINDING, 2**62, backlog=2**62)
    keys = [key(number) for number in range(count)]
    megabytes = size * count / 1e6

    def put() -> None:
        for number, one in enumerate(keys):
            store.put("block", one, [number.to_bytes(8, "little"), memoryview(data)[8:]])

    def drop() -> None:
        os.sync()
        for path in folder.rglob("*.block"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def chain() -> None:
        for first in range(0, count, 64):
            store.get_many("block", keys[first : first + 64])

    queued = seconds(put)
    written = queued + seconds(store.flush)
    found = {"put_us": round(queued / count * 1e6, 1), "write": round(megabytes / written)}
    found["sync_s"] = round(seconds(os.sync), 2)
    found["read_in_memory"] = round(
        megabytes / seconds(lambda: [store.get("block", k) for k in keys])
    )
    found["read_many_in_memory"] = round(megabytes / seconds(chain))
    if hasattr(os, "posix_fadvise"):
        drop()
        found["read_dropped"] = round(
            megabytes / seconds(lambda: [store.get("block", k) for k in keys])
        )
        drop()
        found["read_many_dropped"] = round(megabytes / seconds(chain))
    stats = store.stats
    assert stats.records == count and not (stats.dropped or stats.damaged or stats.misses)
    store.close()
    return dict(found)


def opening(folder: Path, count: int) -> dict[str, object]:
    store = Store(folder, BINDING, 2**62, backlog=2**62)
    began = time.perf_counter()
    for number in range(count):
        store.put("block", key(number), [b"small"])
    store.close(None)
    taken = time.perf_counter() - began
    began = time.perf_counter()
    store = Store(folder, BINDING, 2**62)
    opened = time.perf_counter() - began
    assert store.stats.records == count
    store.close()
    return {"small_written_per_s": round(count / taken), "open_s": round(opened, 2)}


if __name__ == "__main__":
    main()
