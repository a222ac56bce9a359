"""A model folder as something to train further."""

from __future__ import annotations

from pathlib import Path

from dsv4 import checkpoint
from dsv4.encoding.control import BOS, USER
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.training.initial import initial_model
from dsv4.training.optimizer import OptimizerSettings

OPTIMIZER = OptimizerSettings(matrices="adamw", weight_decay=0.0, eps=1e-8)
"""Where no answer of a batch is better than another, the gradient is next to nothing, and must move
next to nothing: hence AdamW, and its usual epsilon."""


def load_policy(folder: Path, *, quantise: bool) -> Transformer:
    """The model of a folder in float32, all that gradients may move requiring them.

    Not so the routers' selection biases, which no gradient reaches, and what post-training leaves
    as it is: the prediction block and Engram tables, of which a batch meets a few rows.
    quantise: it is going to be rounded to the formats it was stored in. Raises ConfigError and
    CheckpointError.
    """
    model = initial_model(checkpoint.read_config(folder), folder, 0, settle=quantise)
    for name, parameter in model.named_parameters():
        kept = name.endswith(("gate.bias", "engram.embed.weight")) or name.startswith("mtp.")
        parameter.requires_grad_(not kept)
    return model


ROUTERS = ".ffn.gate."
"""Part of their weights' names. RL keeps them: which experts answer is not what is rewarded."""


def rounded_throughout(quantise_from: float) -> bool:
    """Whether a run samples and trains with rounded weights, from its beginning or never. Raises
    UsageError for a run that would begin to in between."""
    if quantise_from not in (0.0, 1.0):
        raise UsageError(
            f"weights that are rounded from {quantise_from:g} of the run on",
            "0 or 1: samples are drawn with the weights that are trained",
        )
    return quantise_from == 0.0


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer, as in the chat engine: EOS, and what opens another turn."""
    return frozenset({tokenizer.eos_id, tokenizer.control_id(BOS), tokenizer.control_id(USER)})
