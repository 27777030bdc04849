"""Tensors that a loader only casts into parameters: the worker does the same for a whole bucket at once.

A rank cannot write them, because their bytes change, so they pass through the ring like all opaque tensors. But the loader,
which takes 0.2 ms or more a tensor, need not see them: a bucket is converted by one operation, and its parts are copied as they
were recorded. The first time the loader does it as well, and its results are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..loading.copies import Copy, CopyPlan
from ..loading.torch_dtypes import TORCH_DTYPES
from ..protocol.messages import TensorEntry
from .regions import Region

Named = tuple[str, torch.Tensor]
#: Operation of a write that is such a copy.
CAST: Final = "cast"
#: Bytes of other tensors between two that are converted together.
_GAP: Final = 1024


class Cast(NamedTuple):
    """A copy that changes the element type."""

    tensor: str
    dtype: torch.dtype
    #: Address of the storage written to.
    storage: int
    #: Source offsets in bytes of the converted tensor, from its start.
    region: Region


@dataclass(frozen=True)
class SeenCast:
    """One while it is watched."""

    cast: Cast
    #: The storage written to, while it exists.
    storage: StorageWeakRef
    #: True if the loader had looked at values before.
    guided: bool


def can_cast(destination: torch.Tensor, source: torch.Tensor) -> bool:
    """Returns True if a copy does nothing but convert each element."""
    kinds = {
        tensor.is_complex() or tensor.is_quantized or tensor.is_conj() or tensor.is_neg() for tensor in (destination, source)
    }
    apart = all(stride > 0 or count == 1 for count, stride in zip(destination.shape, destination.stride(), strict=True))
    return kinds == {False} and apart and destination.dtype != source.dtype


class _Group(NamedTuple):
    """Neighbours in the ring, of one type and for one type."""

    start: int
    end: int
    source: torch.dtype
    target: torch.dtype
    members: list[tuple[str, int]]


class CastReplay:
    """The casts of one recording. It keeps the storages that it writes to: drop it with the recording."""

    def __init__(self, casts: Iterable[Cast], parameters: Mapping[str, torch.Tensor]) -> None:
        """:param parameters: those that match the recording."""
        found = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in parameters.values() if t.numel()}
        self._casts: dict[str, list[tuple[torch.UntypedStorage, Cast]]] = {}
        for cast in casts:
            self._casts.setdefault(cast.tensor, []).append((found[cast.storage], cast))
        self._plans: dict[str, tuple[_Group, CopyPlan]] = {}
        #: Tensors for which the loader's result was the same.
        self._seen: set[str] = set()

    def run(self, ring: torch.Tensor, entries: Sequence[TensorEntry], named: list[Named]) -> list[Named]:
        """Casts those of a bucket's tensors for which the loader's result was the same before; returns the others.

        :param ring: the ring's bytes.
        :param named: the tensors that the loader would get.
        """
        wanted = {name for name, _ in named} & self._seen
        if not wanted:
            return named
        done: set[str] = set()
        for group in _groups(ring, [entry for entry in entries if entry.name in wanted], self._target):
            plan = self._plans.get(group.members[0][0])
            if plan is None or plan[0] != group:
                plan = self._plans[group.members[0][0]] = (group, CopyPlan(self._copies(group)))
            plan[1].run(_converted(ring, group))
            done.update(name for name, _ in group.members)
        return [one for one in named if one[0] not in done]

    def compare(self, ring: torch.Tensor, entries: Sequence[TensorEntry]) -> None:
        """Called after the loader had a bucket's tensors: compares what it did with what was recorded."""
        asked = [entry for entry in entries if entry.name in self._casts and entry.name not in self._seen]
        for group in _groups(ring, asked, self._target):
            converted = _converted(ring, group)
            for name, offset in group.members:
                if all(torch.equal(*_both(storage, cast, converted, offset)) for storage, cast in self._casts[name]):
                    self._seen.add(name)
                else:
                    del self._casts[name]

    def _target(self, name: str) -> torch.dtype:
        return self._casts[name][0][1].dtype

    def _copies(self, group: _Group) -> Iterator[Copy]:
        for name, offset in group.members:
            for storage, cast in self._casts[name]:
                yield Copy(None, _view(storage, cast.region), offset + cast.region.source, _strides(cast.region))


def _groups(ring: torch.Tensor, entries: list[TensorEntry], target: Callable[[str], torch.dtype]) -> list[_Group]:
    """Returns tensors that lie together, as far as they can be converted where they are. Offsets of the members are in the
    converted bytes.
    """
    found: list[_Group] = []
    for entry in sorted(entries, key=lambda entry: entry.offset):
        source, into = TORCH_DTYPES.get(entry.dtype), target(entry.name)
        if source is None or entry.size == 0 or (ring.storage_offset() + entry.offset) % source.itemsize:
            continue
        last, end = (found[-1] if found else None), entry.offset + entry.size
        joined = (
            last is not None
            and (last.source, last.target) == (source, into)
            and last.end <= entry.offset <= last.end + _GAP
            and (entry.offset - last.start) % source.itemsize == 0
        )
        if last is None or not joined:
            found.append(_Group(entry.offset, end, source, into, [(entry.name, 0)]))
            continue
        at = (entry.offset - last.start) // source.itemsize * into.itemsize
        found[-1] = last._replace(end=end, members=last.members)
        last.members.append((entry.name, at))
    return found


def _converted(ring: torch.Tensor, group: _Group) -> torch.Tensor:
    return ring[group.start : group.end].view(group.source).to(group.target).view(torch.uint8)


def _strides(region: Region) -> tuple[int, ...]:
    return (*(dim.source for dim in region.dims), 1)


def _view(storage: torch.UntypedStorage, region: Region) -> torch.Tensor:
    """Returns the bytes that a region writes to."""
    found = torch.empty(0, dtype=torch.uint8, device=storage.device)
    shape = (*(dim.length for dim in region.dims), region.row)
    return found.set_(storage, region.destination, shape, (*(dim.destination for dim in region.dims), 1))


def _both(storage: torch.UntypedStorage, cast: Cast, converted: torch.Tensor, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    there = _view(storage, cast.region)
    return there, converted.as_strided(there.shape, _strides(cast.region), offset + cast.region.source)
