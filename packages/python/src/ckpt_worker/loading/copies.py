"""Combines many small copies into few large ones: runs of equally spaced copies of one form become a single strided copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

#: Copies move words of the widest possible type, because narrow ones are slow on a GPU.
_WORDS: Final = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


class Copy(NamedTuple):
    """Bytes of the source storage that go into ``target``; offsets and strides in bytes, with equal shapes."""

    #: Copies with the same key may be combined; its meaning is the caller's.
    key: object
    target: torch.Tensor
    source_offset: int
    source_stride: tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """A copy without its place, common to the copies of one run. In bytes; bytes of the last dimension are contiguous."""

    key: object
    storage: int
    shape: tuple[int, ...]
    source_stride: tuple[int, ...]
    target_stride: tuple[int, ...]


class _Run(NamedTuple):
    target: torch.Tensor
    word: torch.dtype
    shape: tuple[int, ...]
    source_stride: tuple[int, ...]
    source_offset: int


class CopyPlan:
    """Prepared copies out of one storage. It keeps the targets and nothing of the source: any storage of that layout can be
    used.
    """

    def __init__(self, copies: Iterable[Copy]) -> None:
        self._runs = [_prepare(*run) for run in _runs(copies)]

    def __len__(self) -> int:
        """Number of combined copies."""
        return len(self._runs)

    def run(self, source: torch.Tensor) -> None:
        """Makes the copies. ``source`` is any tensor over the storage."""
        bases: dict[torch.dtype, torch.Tensor] = {}
        storage = source.untyped_storage()
        for target, word, shape, stride, offset in self._runs:
            base = bases.get(word)
            if base is None:
                base = torch.empty(0, dtype=word, device=source.device)
                words = storage.nbytes() // word.itemsize
                base.set_(storage, 0, (words,), (1,))
                bases[word] = base
            target.copy_(base.as_strided(shape, stride, offset))


def _form(copy: Copy) -> tuple[_Form, int]:
    """Returns the copy's form and the offset of the target in its storage."""
    target = copy.target
    size = target.element_size()
    shape, source, into = (*target.shape, size), (*copy.source_stride, 1), (*(s * size for s in target.stride()), 1)
    shape, source, into = _merge(shape, source, into)
    storage = target.untyped_storage().data_ptr()
    return _Form(copy.key, storage, shape, source, into), target.data_ptr() - storage


def _merge(
    shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Removes dimensions whose neighbours are contiguous on both sides."""
    lengths, from_, into = [shape[-1]], [source[-1]], [target[-1]]
    for length, one, other in zip(shape[-2::-1], source[-2::-1], target[-2::-1], strict=True):
        if length == 1:
            continue
        if one == from_[0] * lengths[0] and other == into[0] * lengths[0]:
            lengths[0] *= length
        else:
            lengths.insert(0, length)
            from_.insert(0, one)
            into.insert(0, other)
    return tuple(lengths), tuple(from_), tuple(into)


def _runs(copies: Iterable[Copy]) -> Iterable[tuple[torch.Tensor, _Form, int, int, int, int, int]]:
    """Yields ``(any target, form, source offset, target offset, count, source step, target step)`` for each run."""
    groups: dict[_Form, list[tuple[int, int, torch.Tensor]]] = {}
    for copy in copies:
        if copy.target.numel() == 0:
            continue
        form, place = _form(copy)
        groups.setdefault(form, []).append((copy.source_offset, place, copy.target))
    for form, members in groups.items():
        members.sort(key=lambda member: member[:2])
        first = 0
        while first < len(members):
            source, place, target = members[first]
            last, steps = first, (0, 0)
            while last + 1 < len(members):
                step = (members[last + 1][0] - members[last][0], members[last + 1][1] - members[last][1])
                if step[1] <= 0 or (last > first and step != steps):
                    break
                last, steps = last + 1, step
            yield target, form, source, place, last - first + 1, *steps
            first = last + 1


def _prepare(
    target: torch.Tensor, form: _Form, source_offset: int, place: int, count: int, source_step: int, target_step: int
) -> _Run:
    shape, source, into = form.shape, form.source_stride, form.target_stride
    if count > 1:
        shape, source, into = _merge((count, *shape), (source_step, *source), (target_step, *into))
    numbers = (shape[-1], source_offset, place, *source[:-1], *into[:-1])
    width, word = next((w, word) for w, word in _WORDS if all(n % w == 0 for n in numbers))
    storage = target.untyped_storage()
    base = torch.empty(0, dtype=word, device=target.device)
    words = (*shape[:-1], shape[-1] // width)
    strides = (*tuple(stride // width for stride in into[:-1]), 1)
    base.set_(storage, place // width, words, strides)
    return _Run(base, word, words, (*tuple(stride // width for stride in source[:-1]), 1), source_offset // width)
