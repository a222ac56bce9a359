"""A golden pack read with torch: how far your router is from the reference, layer by layer.

python docs/examples/pack_torch.py PACK CHECKPOINT
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

folder, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
tensors = load_file(folder / "tensors.safetensors")
weights: dict[str, torch.Tensor] = {}
for file in checkpoint.glob("*.safetensors"):
    weights |= load_file(file)


def yours(layer: str) -> torch.Tensor:
    """Put your engine here. This is the router: affinities of the tokens for all experts."""
    x = tensors[f"{layer}.input.experts"].float()
    logits = x @ weights[f"{layer}.ffn.gate.weight"].float().T
    return torch.nn.functional.softplus(logits).sqrt()


for entry in pack["tensors"]:
    if entry["role"] == "output" and entry["part"] == "affinities":
        want = tensors[entry["name"]]
        distance = (yours(entry["layer"]) - want).norm() / want.norm()
        allowed = pack["float32"]["numbers"]
        print(f"{entry['name']}: {distance:.1e} of {allowed:.0e}")
        if distance > allowed:
            sys.exit(f"{entry['layer']} ({entry['kind']}), {entry['module']} is wrong")
