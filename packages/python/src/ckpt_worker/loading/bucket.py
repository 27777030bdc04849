"""From a bucket's description to tensors over the ring, with their bytes compared with what the rank sent."""

from __future__ import annotations

import torch

from ..errors import DigestMismatchError, RingError
from ..protocol.messages import TensorEntry
from .digest import digest_tensor, length_term
from .torch_dtypes import TORCH_DTYPES, from_bytes
from .word_sums import Words, WordSums, can_sum

_MASK = (1 << 64) - 1


def open_bucket(data: torch.Tensor, entries: list[TensorEntry]) -> list[tuple[str, torch.Tensor]]:
    """Returns named tensors over the ring's bytes, without a copy. Digests, if given, are verified first.

    :param data: the ring's bytes, flat uint8.
    :raises RingError: for a tensor that is not inside the ring.
    :raises DigestMismatchError: naming the first tensor whose bytes differ from what the rank sent.
    """
    for entry in entries:
        if entry.offset + entry.size > data.numel():
            where = f"{entry.size} bytes at offset {entry.offset}"
            raise RingError(f"tensor {entry.name!r} ({where}) is outside the ring of {data.numel()} bytes", tensor=entry.name)
    _verify(data, [entry for entry in entries if entry.digest is not None])
    rings: dict[str, torch.Tensor | None] = {}
    return [(entry.name, _tensor(data, entry, rings)) for entry in entries]


def _tensor(data: torch.Tensor, entry: TensorEntry, rings: dict[str, torch.Tensor | None]) -> torch.Tensor:
    """Creates the tensor with a single operation, if its elements may be at that place, because loads wait for this thread.

    :param rings: the ring as elements of each dtype, filled here.
    """
    try:
        ring = rings[entry.dtype]
    except KeyError:
        ring = rings[entry.dtype] = _typed(data, entry.dtype)
    if ring is None or entry.size == 0 or entry.offset % ring.itemsize:
        return from_bytes(_slice(data, entry), entry.dtype, entry.shape)
    strides, step = [1] * len(entry.shape), 1
    for i in range(len(strides) - 1, 0, -1):
        step *= entry.shape[i]
        strides[i - 1] = step
    return ring.as_strided(entry.shape, strides, ring.storage_offset() + entry.offset // ring.itemsize)


def _typed(data: torch.Tensor, dtype: str) -> torch.Tensor | None:
    """Returns the ring as elements of one type; None if torch has no such type, or if the ring's start is misaligned for it."""
    element = TORCH_DTYPES.get(dtype)
    if element is None or data.data_ptr() % element.itemsize or data.storage_offset() % element.itemsize:
        return None
    return data[: data.numel() // element.itemsize * element.itemsize].view(element)


def _slice(data: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    return data[entry.offset : entry.offset + entry.size]


def _verify(data: torch.Tensor, entries: list[TensorEntry]) -> None:
    if not entries:
        return
    found = _digests(data, entries)
    for entry, value in zip(entries, found, strict=True):
        actual, expected = int(value) & _MASK, entry.digest_value
        if actual != expected:
            text = f"tensor {entry.name!r} has digest {actual:016x} in the ring, not {expected:016x}"
            raise DigestMismatchError(text, tensor=entry.name)


def _digests(data: torch.Tensor, entries: list[TensorEntry]) -> list[int]:
    """Returns digests of tensors in the ring. On a GPU one launch and one transfer handle the whole bucket, because each costs
    a round trip.
    """
    if not can_sum(data.device):
        return torch.stack([digest_tensor(_slice(data, entry)) for entry in entries]).tolist()
    start = data.data_ptr()
    whole = [entry.size % 8 == 0 and (start + entry.offset) % 8 == 0 for entry in entries]
    found = torch.tensor(
        [length_term(entry.size) if is_whole else 0 for entry, is_whole in zip(entries, whole, strict=True)], dtype=torch.int64
    ).to(data.device)
    words = [
        Words(start + entry.offset, 0, entry.size // 8, 1, 0, 0, index)
        for index, (entry, is_whole) in enumerate(zip(entries, whole, strict=True))
        if is_whole
    ]
    WordSums(data.device, words).add_to(found)
    for index, (entry, is_whole) in enumerate(zip(entries, whole, strict=True)):
        if not is_whole:
            found[index] = digest_tensor(_slice(data, entry))
    return found.tolist()
