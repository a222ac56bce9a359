"""Many small pieces of a file, read at once without holding up other threads."""

from __future__ import annotations

import os

from torch import Tensor

from dsv4.ops.cpu.native import native


def read_places(file: int, places_R: Tensor, out_RB: Tensor) -> None:
    """Fill each row of `out_RB` (uint8) with the bytes of a file that begin at its place (int64).

    Needs the native kernels. Raises OSError if something cannot be read, EOFError if the file
    ends before.
    """
    count, size = out_RB.shape
    there, error = native.read_places(file, places_R.data_ptr(), count, size, out_RB.data_ptr())
    if there < count:
        raise OSError(error, os.strerror(error)) if error else EOFError
