"""Element types of torch for the dtypes of the safetensors format."""

from __future__ import annotations

from typing import Final

import torch

from ..protocol.dtypes import packed_shape

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

#: torch dtype by safetensors name. Sub-byte dtypes, and those that an old torch lacks, are not included: their tensors have
#: :func:`~ckpt_worker.protocol.dtypes.packed_shape`.
TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, attribute) for name, attribute in _TORCH_NAMES.items() if hasattr(torch, attribute)
}

#: The inverse of :data:`TORCH_DTYPES`.
DTYPE_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def torch_dtype(dtype: str) -> torch.dtype:
    """Returns the torch element type of a safetensors dtype, for loaders that need one.

    :raises ValueError: if there is none; the tensor then arrives as packed bytes (uint8).
    """
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        raise ValueError(
            f"torch {torch.__version__} has no element type for {dtype}: its tensors arrive as packed bytes (uint8)"
        )
    return found


def from_bytes(data: torch.Tensor, dtype: str, shape: list[int]) -> torch.Tensor:
    """Returns ``data`` (flat uint8, exactly the tensor's bytes) viewed as a tensor.

    No copy is made unless the bytes are misaligned for the element type.
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
