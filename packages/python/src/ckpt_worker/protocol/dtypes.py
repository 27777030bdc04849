"""The dtypes of the safetensors format in messages, and the sizes of tensors."""

from __future__ import annotations

import math
from typing import Final

#: Bits per element by safetensors name (https://github.com/huggingface/safetensors, ``Dtype``).
DTYPE_BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


def tensor_bytes(dtype: str, shape: list[int]) -> int:
    """Returns the bytes of a tensor.

    :raises ValueError: for an unknown dtype, or if the size is not a whole number of bytes.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ValueError(f"unknown dtype {dtype!r}")
    total = math.prod(shape) * bits
    if total % 8:
        raise ValueError(f"{dtype} of shape {shape} is not a whole number of bytes")
    return total // 8


def packed_shape(dtype: str, shape: list[int]) -> list[int]:
    """Returns the shape of the uint8 tensor that represents a dtype without a torch element type.

    The last dimension counts bytes (as in packed FP4 checkpoints); if a row is not a whole number of bytes, all dimensions are
    flattened into one.
    """
    if not shape:
        return [tensor_bytes(dtype, shape)]
    row_bits = shape[-1] * DTYPE_BITS[dtype]
    if row_bits % 8:
        return [tensor_bytes(dtype, shape)]
    return [*shape[:-1], row_bits // 8]
