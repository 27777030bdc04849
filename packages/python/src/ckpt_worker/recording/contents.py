"""Contents of parameters at one moment, block by block, to find blocks that have changed since without a known cause."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .regions import Region, extent_of

#: Bytes per block: changes inside one block cannot be distinguished.
_SMALL: Final = 256
_LARGE: Final = 4096
#: Memory larger than this uses the larger block size.
_MANY_BYTES: Final = 64 << 20
#: Bytes processed at a time.
_CHUNK: Final = 8 << 20
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Span:
    """Bytes of one storage that contain parameters."""

    start: int
    end: int
    storage: StorageWeakRef
    block: int
    digests: torch.Tensor


class Contents:
    """Digests of the bytes that contain parameters. It holds no parameter."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """:param parameters: by name; tensors without memory are left out."""
        self._spans = [_digested(*found) for found in _spans(parameters)]
        self._starts = [span.start for span in self._spans]
        self._explained: list[_Flags] = [np.zeros(len(span.digests), dtype=np.bool_) for span in self._spans]

    def explain(self, start: int, end: int) -> None:
        """Marks bytes (by address) whose change has a known cause."""
        self._mark(np.array([start]), end - start)

    def explain_region(self, address: int, region: Region) -> None:
        """Marks the bytes that a copy writes to in the storage at ``address``."""
        starts = np.array([address + region.destination], dtype=np.int64)
        for dim in region.dims:
            steps = np.arange(dim.length, dtype=np.int64) * dim.destination
            starts = (starts[:, None] + steps[None, :]).ravel()
        self._mark(starts, region.row)

    def changed(self, parameters: Mapping[str, torch.Tensor]) -> list[str]:
        """Returns names of parameters that are at the same place, and hold other bytes without a known cause."""
        bad: list[tuple[int, int]] = []
        present = _present(parameters)
        for span, explained in zip(self._spans, self._explained, strict=True):
            memory = present.get(span.start, {}).get(span.end)
            if memory is None or span.storage.expired():
                continue
            differs = (_digests(memory, span.block) != span.digests).cpu().numpy() & ~explained
            bad += [(span.start + int(i) * span.block, span.start + int(i + 1) * span.block) for i in np.flatnonzero(differs)]
        bad.sort()
        return [name for name, tensor in parameters.items() if _has_memory(tensor) and _meets(bad, *extent_of(tensor))]

    def _mark(self, starts: npt.NDArray[np.int64], size: int) -> None:
        if size <= 0 or not self._spans:
            return
        first, last = int(starts.min()), int(starts.max()) + size
        for index in range(max(bisect.bisect_right(self._starts, first) - 1, 0), len(self._spans)):
            span = self._spans[index]
            if span.start >= last:
                break
            begin = np.maximum(starts - span.start, 0) // span.block
            end = np.minimum(starts + size - 1 - span.start, span.end - span.start - 1) // span.block
            inside = end >= begin
            flags = np.zeros(len(self._explained[index]) + 1, dtype=np.int64)
            np.add.at(flags, begin[inside], 1)
            np.add.at(flags, end[inside] + 1, -1)
            self._explained[index] |= np.cumsum(flags[:-1]) > 0


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.numel() > 0 and tensor.device.type != "meta" and tensor.layout == torch.strided


def _spans(parameters: Mapping[str, torch.Tensor]) -> Iterable[tuple[int, int, torch.UntypedStorage]]:
    """Joined ranges of addresses, ascending, with their storage."""
    extents = sorted(
        ((*extent_of(tensor), tensor.untyped_storage()) for tensor in parameters.values() if _has_memory(tensor)),
        key=lambda extent: extent[:2],
    )
    joined: list[tuple[int, int, torch.UntypedStorage]] = []
    for start, end, storage in extents:
        if joined and start < joined[-1][1] and joined[-1][2].data_ptr() == storage.data_ptr():
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]), storage)
        else:
            joined.append((start, end, storage))
    return joined


def _present(parameters: Mapping[str, torch.Tensor]) -> dict[int, dict[int, torch.Tensor]]:
    found: dict[int, dict[int, torch.Tensor]] = {}
    for start, end, storage in _spans(parameters):
        found.setdefault(start, {})[end] = _bytes(storage, start, end)
    return found


def _bytes(storage: torch.UntypedStorage, start: int, end: int) -> torch.Tensor:
    memory = torch.empty(0, dtype=torch.uint8, device=storage.device)
    memory.set_(storage, start - storage.data_ptr(), (end - start,), (1,))
    return memory


def _digested(start: int, end: int, storage: torch.UntypedStorage) -> _Span:
    block = _SMALL if end - start <= _MANY_BYTES else _LARGE
    return _Span(start, end, StorageWeakRef(storage), block, _digests(_bytes(storage, start, end), block))


def _digests(memory: torch.Tensor, block: int) -> torch.Tensor:
    """Returns one number per block, the last one padded with zeros."""
    words = block // 8
    # Odd and all different, so that no two words can be exchanged.
    factors = torch.arange(1, words + 1, dtype=torch.int64, device=memory.device).mul_(-0x61C8864680B583EB).bitwise_or_(1)
    found = []
    step = _CHUNK // block * block
    for first in range(0, memory.numel(), step):
        part = memory[first : first + step]
        tail = part.numel() % block
        if tail:
            padded = torch.zeros(part.numel() + block - tail, dtype=torch.uint8, device=memory.device)
            padded[: part.numel()] = part
            part = padded
        elif part.data_ptr() % 8 or part.storage_offset() % 8:
            part = part.clone()
        values = part.view(torch.int64).view(-1, words)
        # Sign bits alone would cancel each other in the product.
        mixed = torch.bitwise_right_shift(values, 32).bitwise_xor_(values)
        found.append(mixed.mul_(factors).sum(1))
    return torch.cat(found)


def _meets(ranges: list[tuple[int, int]], start: int, end: int) -> bool:
    at = bisect.bisect_left(ranges, end, key=lambda one: one[0])
    return at > 0 and ranges[at - 1][1] > start
