"""Predictions of transformers' implementation, in this process.

Shapes: P positions, T tokens, V vocabulary.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dsv4 import checkpoint
from dsv4.checkpoint.plan import Plan
from dsv4.errors import UsageError
from dsv4.evaluation.conformance.against.predictions import Predictions, chosen_positions, whole

NAME = "transformers"
WANTED = "5.23.0"


def predict(plan: Plan, ids: Sequence[int]) -> Predictions:
    """What transformers predicts for a folder, in float32 with eager attention.

    A folder in the released layout is converted first, in a temporary place. Raises UsageError
    without transformers, for one that has no V4, and for a model that it has not.
    """
    if plan.config.engram is not None:
        raise UsageError(
            "transformers has no Engram, which this model has",
            "compare with a server or a file of logits, or verify the folder alone",
        )
    made = _implementation()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = plan.folder
        if plan.layout != "transformers":
            folder = Path(scratch) / "model"
            checkpoint.export_transformers(checkpoint.load(plan.folder), folder)
        model = made.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        with torch.no_grad():
            output = model.eval()(input_ids=torch.tensor([list(ids)]), use_cache=False)
    positions = chosen_positions(plan.config, len(ids))
    logits_PV = output.logits[0, positions].float()
    how = f"in process, float32, eager attention, {len(positions)} positions"
    return whole(NAME, how, ids, positions, logits_PV)


def _implementation() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            "transformers is not installed", f"pip install transformers=={WANTED}"
        ) from error
    try:
        transformers.utils.logging.disable_progress_bar()
        return transformers.DeepseekV4ForCausalLM
    except AttributeError as error:
        raise UsageError(
            f"transformers {transformers.__version__} has no DeepSeek-V4",
            f"pip install transformers=={WANTED}",
        ) from error
