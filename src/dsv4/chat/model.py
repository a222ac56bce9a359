"""A model folder, loaded: weights, configuration and vocabulary under one name.

T: tokens, V: vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dsv4 import checkpoint, locate
from dsv4.chat.defaults import Defaults, read_defaults
from dsv4.config import ModelConfig
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine.forward import forward
from dsv4.errors import UsageError
from dsv4.model.cost import parameters
from dsv4.model.transformer import Transformer
from dsv4.model.weights import expand_quantized
from dsv4.numerics.policy import by_name
from dsv4.ops.fused import arithmetic, available
from dsv4.version import __version__

EXPAND_BELOW = 128 << 20
"""Models with fewer parameters are dequantised once instead of at every step.

In float32 that takes up to 512 MiB: loading any model is to need less than 1 GiB of memory
besides the mapped files.
"""


@dataclass(frozen=True)
class Model:
    """A loaded model. `name` is what it was asked for by, and what the API calls it."""

    name: str
    folder: Path
    transformer: Transformer

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    @property
    def numerics(self) -> str:
        """Name of the numerics policy it was loaded with."""
        return self.transformer.numerics.name

    @property
    def profile(self) -> str:
        """The prompt profile of this checkpoint: the 0731 ones carry draft stages."""
        return "0731" if self.config.draft_stages else "launch"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary, read on first use. Raises EncodingError if the folder has none."""
        return Tokenizer.from_folder(self.folder, self.config.vocab_size)

    @cached_property
    def binding(self) -> bytes:
        """A digest of all that the numbers of a decoding state depend on besides the tokens."""
        digest = hashlib.blake2b(checkpoint.identity(self.folder), digest_size=32)
        digest.update(f"{self.numerics} {arithmetic()} {__version__}".encode())
        if self.transformer.ngrams is not None:  # it may come from the tokenizer
            digest.update(self.transformer.ngrams.token_map.numpy().tobytes())
        return digest.digest()

    @cached_property
    def defaults(self) -> Defaults:
        """How it answers when a request leaves it open."""
        return read_defaults(self.folder)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Teacher-forced logits of every position, `[T, V]` float32.

        Raises UsageError for ids that are none of this model, CheckpointError if its weights
        lead to logits that are not finite.
        """
        return torch.cat([logits_TV for _, logits_TV in forward(self.transformer, ids)])


def load(
    name: str | Path = locate.DEFAULT,
    numerics: str = "exact",
    *,
    memory_limit: int | None = None,
) -> Model:
    """Load a bundled model, a folder or a hub id, with a numerics policy.

    `memory_limit`: bytes that this process may keep resident; routed experts are then read from
    the folder when they are needed (`fast` with native kernels only). Raises UsageError for an
    unknown policy or too small a limit, CheckpointError or ConfigError for a folder that is not
    a sound model.
    """
    policy = by_name(numerics)
    folder = locate.folder(name)
    if memory_limit is not None and not (policy.packed and available()):
        raise UsageError(
            f"a memory limit needs the native kernels, which {numerics} does not use"
            if not policy.packed
            else "a memory limit needs the native kernels, which are not installed",
            "use --numerics fast" if not policy.packed else "dsv4 doctor says how to get them",
        )
    transformer = checkpoint.load(
        folder,
        policy,
        memory_limit=memory_limit,
        canonical_ids=Tokenizer.canonical_ids_of(folder),
    )
    transformer.requires_grad_(False)
    # Kernels read the stored formats; op by op they would be decoded at every step.
    in_place = policy.quantized or (policy.packed and available())
    if not in_place and parameters(transformer.config).total < EXPAND_BELOW:
        expand_quantized(transformer)
    known = str(name) if str(name) in locate.bundled() else folder.resolve().name
    return Model(known, folder, transformer)
