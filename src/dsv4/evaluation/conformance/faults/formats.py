"""Known failures in stored formats, and in multi-token prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dsv4.evaluation.conformance.faults.fault import Fault, into, swapped
from dsv4.model import mtp
from dsv4.numerics import formats

FAULTS: dict[str, Fault] = {}
_fault = into(FAULTS)


@_fault(13, "E8M0 bytes read as numbers", "byte b is 2 ** (b - 127)")
def _scales_as_numbers() -> Iterator[None]:
    with swapped(formats, "decode_e8m0", lambda codes: codes.view(torch.uint8).float()):
        yield


@_fault(13, "FP4 halves in the wrong order", "the low half of a byte is the even element")
def _fp4_halves_swapped() -> Iterator[None]:
    reference = formats.decode_packed_e2m1

    def decode(packed: Tensor) -> Tensor:
        return reference(packed).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)

    with swapped(formats, "decode_packed_e2m1", decode):
        yield


@_fault(19, "MTP reads the collapsed stream", "the MTP block reads all four streams")
def _mtp_of_collapsed_stream() -> Iterator[None]:
    predict = mtp.PredictionBlock.predict

    def changed(self: mtp.PredictionBlock, streams: Tensor, *rest: Any) -> Any:
        mean = streams.float().mean(2, keepdim=True).to(streams.dtype)
        return predict(self, mean.expand_as(streams), *rest)

    with swapped(mtp.PredictionBlock, "predict", changed):
        yield
