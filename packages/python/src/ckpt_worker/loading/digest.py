"""The 64-bit digest of docs/worker-protocol.md, in torch's int64 arithmetic and in plain Python."""

from __future__ import annotations

from typing import Final

import torch

_MASK: Final = (1 << 64) - 1
_LOW: Final = 0xFFFFFFFF
_MULTIPLIER: Final = 0xD6E8FEB86659FD93
_STEP: Final = 0x9E3779B97F4A7C15
_LENGTH: Final = 0xFF51AFD7ED558CCD

# Words processed at a time: on a CPU the number that fits in its cache, on a GPU enough to keep it busy (two temporaries of 32
# MiB).
_CPU_WORDS: Final = 1 << 18
_GPU_WORDS: Final = 1 << 22


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def reference_mix(value: int) -> int:
    """Mixes one word for the digest, in plain Python."""
    value ^= value >> 32
    value = value * _MULTIPLIER & _MASK
    value ^= value >> 32
    value = value * _MULTIPLIER & _MASK
    return value ^ value >> 32


#: The digest's step between words, as torch's int64.
GOLDEN: Final = _signed(_STEP)


def chunk_words(device: torch.device) -> int:
    """Returns the number of 64-bit words to process at a time on a device."""
    return _CPU_WORDS if device.type == "cpu" else _GPU_WORDS


def mix_(value: torch.Tensor, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """Mixes each word for the digest, in place; ``scratch`` is as large as ``value``."""
    shifted = torch.empty_like(value) if scratch is None else scratch
    for last in (False, False, True):
        torch.bitwise_right_shift(value, 32, out=shifted)
        value.bitwise_xor_(shifted.bitwise_and_(_LOW))
        if not last:
            value.mul_(_signed(_MULTIPLIER))
    return value


def reference_digest(data: bytes | bytearray | memoryview) -> int:
    """Returns the digest of ``data``, word by word in plain Python: slow, and clearly the protocol's formula."""
    data = bytes(data)
    total = reference_mix(len(data) ^ _LENGTH)
    for index, start in enumerate(range(0, len(data), 8)):
        word = int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little")
        total += reference_mix((word + (index + 1) * _STEP) & _MASK)
    return total & _MASK


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the bytes of a contiguous tensor as flat uint8, without a copy.

    :raises ValueError: if the tensor is not contiguous.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {list(tensor.shape)} is not contiguous: its bytes are no single range")
    return tensor.detach().reshape(-1).view(torch.uint8)


def digest_tensor(tensor: torch.Tensor, limit: int | None = None) -> torch.Tensor:
    """Returns the digest of a contiguous tensor's bytes as a 0-dimensional int64 tensor on the same device, without waiting for
    it.

    :param limit: 64-bit words processed at a time, which limits the extra memory to some 24 bytes per word.
    :raises ValueError: if the tensor is not contiguous.
    """
    data = flat_bytes(tensor)
    size = data.numel()
    total = torch.full((), length_term(size), dtype=torch.int64, device=data.device)
    words = min(limit or chunk_words(data.device), (size + 7) // 8)
    if words == 0:
        return total
    steps = torch.arange(1, words + 1, dtype=torch.int64, device=data.device).mul_(_signed(_STEP))
    value, shifted = torch.empty_like(steps), torch.empty_like(steps)
    for first in range(0, (size + 7) // 8, words):
        chunk = _words(data[first * 8 : (first + words) * 8])
        count = chunk.numel()
        mixed, scratch = value[:count], shifted[:count]
        torch.add(chunk, steps[:count], out=mixed)
        mixed.add_(_signed(first * _STEP))
        total += mix_(mixed, scratch).sum()
    return total


def length_term(size: int) -> int:
    """Returns the digest of ``size`` bytes without the terms of their words, as torch's int64."""
    return _signed(reference_mix(size ^ _LENGTH))


def digest(tensor: torch.Tensor, limit: int | None = None) -> int:
    """Returns the digest of a contiguous tensor's bytes as an unsigned 64-bit integer; waits for the device."""
    return int(digest_tensor(tensor, limit).item()) & _MASK


def _words(data: torch.Tensor) -> torch.Tensor:
    """Returns ``data`` as 64-bit words; copied if it is unaligned or has a tail to pad."""
    tail = data.numel() % 8
    if tail:
        padded = torch.zeros(data.numel() + 8 - tail, dtype=torch.uint8, device=data.device)
        padded[: data.numel()] = data
        return padded.view(torch.int64)
    if data.storage_offset() % 8 or data.data_ptr() % 8:
        data = data.clone()
    return data.view(torch.int64)
