"""Write the parts of public data sets that travel in the package, from a folder of whole ones.

    tools/eval_subsets.py FOLDER

`dsv4.evaluation.standard.records` orders records by their contents; the first of them are taken,
as they are. `src/dsv4/evaluation/standard/data/README.md` says where the sets are from.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path

from dsv4.data.corpora import read_records
from dsv4.evaluation.standard.calls import CATEGORIES
from dsv4.evaluation.standard.programs import MBPP_TEST
from dsv4.evaluation.standard.records import BUNDLED, Record, first, ordered

TAKEN: dict[str, tuple[int, str | None]] = {
    "mmlu_dev_test": (8, "subject"),
    "hellaswag_val": (300, None),
    "gsm8k_test": (300, None),
    "bbh": (10, "task"),
    "bbh_cot_prompts": (27, None),
    "humaneval": (164, None),
    "mbpp": (200, None),
    "bfcl_v4": (20, "category"),
}
"""Set -> how many records, of every value of which key."""


def _asked(name: str, record: Record) -> bool:
    """Whether a record is one that is asked."""
    if name == "mmlu_dev_test":
        return bool(record["split"] == "test")
    if name == "mbpp":
        return record["task_id"] in MBPP_TEST
    return name != "bfcl_v4" or record["category"] in CATEGORIES


def main(folder: Path) -> None:
    for name, (count, key) in TAKEN.items():
        (path,) = folder.glob(f"{name}.jsonl*")
        records = [record for record in read_records(path) if _asked(name, record)]
        taken = list(first(ordered(records), count, key))
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in taken)
        data = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
        (BUNDLED / f"{name}.jsonl.xz").write_bytes(data)
        print(f"{name}: {len(taken)} of {len(records)} records, {len(data):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
