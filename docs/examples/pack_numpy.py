"""A golden pack read with numpy alone: how far your router is from the reference.

python docs/examples/pack_numpy.py PACK CHECKPOINT
"""

import json
import sys
from pathlib import Path

import numpy as np


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as float32 (of the types that are of use here)."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, one in json.loads(data[8:start]).items():
        kind = {"F32": "<f4", "I32": "<i4", "BOOL": "?", "BF16": "<u2"}.get(one.get("dtype"))
        if kind is not None:
            first, last = one["data_offsets"]
            x = np.frombuffer(data[start + first : start + last], kind).reshape(one["shape"])
            # bfloat16 is the upper half of a float32.
            found[name] = (x.astype("<u4") << 16).view("<f4") if kind == "<u2" else x
    return found


folder = Path(sys.argv[1])
pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
tensors, weights = read(folder / "tensors.safetensors"), {}
for file in Path(sys.argv[2]).glob("*.safetensors"):
    weights |= read(file)
for entry in pack["tensors"]:
    if entry["role"] == "output" and entry["part"] == "affinities":
        layer, want = entry["layer"], tensors[entry["name"]]
        logits = tensors[f"{layer}.input.experts"] @ weights[f"{layer}.ffn.gate.weight"].T
        yours = np.sqrt(np.logaddexp(logits, 0))  # put your engine here
        distance = np.linalg.norm(yours - want) / np.linalg.norm(want)
        allowed = pack["float32"]["numbers"]
        print(f"{entry['name']}: {distance:.1e} of {allowed:.0e}")
        if distance > allowed:
            sys.exit(f"{layer} ({entry['kind']}), {entry['module']} is wrong")
