"""The dtypes of the safetensors format, and what torch makes of them."""

from __future__ import annotations

import math
from typing import Final

import torch

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

_TORCH_NAMES: Final[dict[str, str]] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}

#: torch dtype by safetensors name. Sub-byte dtypes, and those that an old torch lacks, are not in it: see :func:`packed_shape`.
TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, attribute) for name, attribute in _TORCH_NAMES.items() if hasattr(torch, attribute)
}

#: The inverse of :data:`TORCH_DTYPES`.
DTYPE_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def tensor_bytes(dtype: str, shape: list[int]) -> int:
    """Bytes that a tensor takes.

    :raises ValueError: for an unknown dtype, or where the size is not a whole number of bytes.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ValueError(f"unknown dtype {dtype!r}")
    total = math.prod(shape) * bits
    if total % 8:
        raise ValueError(f"{dtype} of shape {shape} is not a whole number of bytes")
    return total // 8


def packed_shape(dtype: str, shape: list[int]) -> list[int]:
    """Shape of the uint8 tensor that stands for a dtype torch has no element type for.

    The last dimension counts bytes (as packed FP4 checkpoints have it); where a row is not a whole number of bytes, all
    dimensions are flattened into one.
    """
    if not shape:
        return [tensor_bytes(dtype, shape)]
    row_bits = shape[-1] * DTYPE_BITS[dtype]
    if row_bits % 8:
        return [tensor_bytes(dtype, shape)]
    return [*shape[:-1], row_bits // 8]


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch element type of a safetensors dtype, for loaders that must have one.

    :raises ValueError: where there is none; the tensor then comes as packed bytes (uint8).
    """
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        raise ValueError(
            f"torch {torch.__version__} has no element type for {dtype}: its tensors are given as packed bytes (uint8)"
        )
    return found


def from_bytes(data: torch.Tensor, dtype: str, shape: list[int]) -> torch.Tensor:
    """``data`` (flat uint8, as many bytes as the tensor takes) seen as a tensor.

    No copy is made unless the bytes lie where the element type may not (an unaligned offset).
    """
    element = TORCH_DTYPES.get(dtype)
    if element is None:
        return data.view(packed_shape(dtype, shape))
    if data.numel() == 0:
        return torch.empty(shape, dtype=element, device=data.device)
    size = element.itemsize
    if data.data_ptr() % size or data.storage_offset() % size:
        data = data.clone()
    return data.view(element).view(shape)
