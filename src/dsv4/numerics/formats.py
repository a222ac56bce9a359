"""The three number formats of V4 checkpoints, encoded and decoded exactly.

| format | bits | values | special |
|---|---|---|---|
| e4m3 | sign, 4 exponent (bias 7), 3 mantissa | +-2^-9 .. +-448 | 0x7f, 0xff are NaN; no infinity |
| e2m1 | sign, 2 exponent (bias 1), 1 mantissa | 0 .5 1 1.5 2 3 4 6 | none |
| e8m0 | 8 exponent (bias 127) | 2^-127 .. 2^127 | 255 is NaN; no zero, no sign |

Encoders round to the nearest value, ties to the even code, and saturate; e8m0 holds scales and
rounds up instead, so that a scaled block never leaves the range of its elements.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

E4M3_MAX: Final = 448.0
E2M1_MAX: Final = 6.0
E2M1_MAGNITUDES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E8M0_NAN: Final = 255


def round_up_to_power_of_two(x: Tensor) -> Tensor:
    """Smallest power of two >= x, on the bits of a positive float32 ("p2c" in the kernels).

    NaN and infinity stay what they are. Same shape, float32.
    """
    bits = x.view(torch.int32)
    raised = ((bits + 0x7FFFFF) & 0x7F800000).view(torch.float32)
    return torch.where(x.isfinite(), raised, x)


def encode_e4m3(x: Tensor) -> Tensor:
    """Nearest e4m3 of each float, clipped to +-448; NaN stays NaN. Same shape, float8_e4m3fn."""
    return x.to(torch.float32).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def decode_e4m3(codes: Tensor) -> Tensor:
    """The float32 values of e4m3 codes (float8_e4m3fn, or their bytes as uint8 or int8).

    The seven low bits of a code, moved up by seven, are the float16 of the same number divided by
    2^8 (the biases differ by 8), and processors widen float16 several times faster than torch
    widens e4m3. Only NaN needs care: that pattern is an ordinary float16.
    """
    raw = codes.view(torch.int8)
    # Sign extension left a copy of the sign in bit 14, which would be an exponent bit.
    half = raw.to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
    values = half.to(torch.float32).mul_(256.0)
    magnitude_set = raw.bitwise_or(-128)
    # A CPU looks faster than it fills; with a GPU, to look is to wait for all it has to do.
    on_cpu = raw.device.type == "cpu"
    if raw.numel() and (not on_cpu or int(magnitude_set.max()) == -1):
        values.masked_fill_(magnitude_set == -1, torch.nan)
    return values


def round_e2m1(x: Tensor) -> Tensor:
    """Nearest e2m1 value of each float32, clipped to +-6, as float32; NaN stays NaN.

    Halves between two values go to the one with the even code.
    """
    x = x.clamp(-E2M1_MAX, E2M1_MAX)
    size = x.abs()
    # Spacing of the values around x; the even multiples of it are exactly the even codes.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (x / step).round_().mul_(step)


def encode_e2m1(x: Tensor) -> Tensor:
    """The e2m1 code (uint8, 0..15) nearest to each float; clipped to +-6. Same shape.

    e2m1 has no NaN: a NaN is encoded as zero, and its block scale has to carry the NaN.
    """
    value = round_e2m1(x.to(torch.float32))
    size = value.abs().nan_to_num_(0.0)
    # 0 .5 1 1.5 2 | 3 4 | 6 are codes 0-4 | 5 6 | 7: doubling counts halves, ones and twos.
    code = torch.where(size <= 2, size * 2, torch.where(size <= 4, size + 2, 7.0))
    return code.to(torch.uint8) | (value.signbit().to(torch.uint8) << 3)


def decode_e2m1(codes: Tensor) -> Tensor:
    """The float32 values of e2m1 codes 0..15 (any integer dtype). Same shape."""
    table = torch.tensor(_E2M1_VALUES, dtype=torch.float32, device=codes.device)
    return table[codes.to(torch.int64)]


def pack_e2m1(codes: Tensor) -> Tensor:
    """Codes [..., n] (n even) to bytes [..., n/2], int8 as stored in checkpoints.

    Byte j holds element 2j in its low and 2j+1 in its high half.
    """
    assert codes.shape[-1] % 2 == 0, "an odd number of 4-bit codes does not fill bytes"
    low, high = codes.view(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return (low | (high << 4)).view(torch.int8)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """Bytes [..., n/2] (int8 or uint8) to codes [..., n], uint8 0..15."""
    raw = packed.view(torch.uint8)
    return torch.stack((raw & 15, raw >> 4), dim=-1).flatten(-2)


def decode_packed_e2m1(packed: Tensor) -> Tensor:
    """Bytes [..., n/2] to float32 [..., n]: one table look-up gives both values of a byte."""
    table = _PAIRS.to(packed.device, non_blocking=True)
    pairs = torch.index_select(table, 0, packed.view(torch.uint8).to(torch.int32).flatten())
    shape = (*packed.shape[:-1], 2 * packed.shape[-1])
    return pairs.view(torch.float16).to(torch.float32).view(shape)


def encode_e8m0(x: Tensor) -> Tensor:
    """The smallest e8m0 >= each positive float, as float8_e8m0fnu. Same shape.

    Zero and everything below 2^-127 give 2^-127; NaN, infinity, negative numbers and what lies
    above 2^127 give NaN.
    """
    bits = x.to(torch.float32).view(torch.int32)
    mantissa = bits & 0x7FFFFF
    # A float32 with exponent field 0 is subnormal: 2^-127 has the top mantissa bit alone.
    code = (bits >> 23) + torch.where(bits < 1 << 23, mantissa > 1 << 22, mantissa > 0)
    code = torch.where((bits < 0) | (code > 254), E8M0_NAN, code)
    return code.to(torch.uint8).view(torch.float8_e8m0fnu)


def decode_e8m0(codes: Tensor) -> Tensor:
    """The float32 values 2^(code-127) of e8m0 codes (float8_e8m0fnu or uint8); 255 is NaN."""
    return codes.view(torch.float8_e8m0fnu).to(torch.float32)


_E2M1_VALUES: Final = (*E2M1_MAGNITUDES, *(-size for size in E2M1_MAGNITUDES))
# Both values of each byte as float16 (exact), the pair read as one 32-bit word: [256].
_PAIRS: Final = (
    torch.tensor(
        [(_E2M1_VALUES[byte & 15], _E2M1_VALUES[byte >> 4]) for byte in range(256)],
        dtype=torch.float16,
    )
    .view(torch.int32)
    .flatten()
)
