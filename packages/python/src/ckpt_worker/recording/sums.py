"""Sums of what a worker keeps of each route, read from its parameters: docs/worker-protocol.md, "Sums of routes"."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from ..loading.digest import GOLDEN, chunk_words, mix_
from ..loading.word_sums import Words, WordSums, can_sum
from .recording import Recording, Route
from .regions import Region

#: Units by size, for summing. Units smaller than words are rare, and slow.
_UNITS: Final = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


#: Maximum parts of one route that are described one by one.
_MOST_ROWS: Final = 4096


@dataclass(frozen=True)
class _Form:
    """A route without its place: routes of one form, evenly spaced in one storage, are summed together."""

    storage: int
    source: int
    row: int
    dims: tuple[tuple[int, int, int], ...]
    unit: int


@dataclass(frozen=True)
class _Run:
    form: _Form
    #: Index of the first route's sum and of each further one's.
    outputs: tuple[int, ...]
    #: Position of the first route's bytes in the storage, and the distance to the next one's.
    start: int
    step: int


class RouteSums:
    """Sums of all routes of one recording. It keeps the storages: drop it when the recording does not match any more."""

    def __init__(self, recording: Recording, parameters: Mapping[str, torch.Tensor]) -> None:
        """:param parameters: those that match the recording."""
        found = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in parameters.values() if t.numel()}
        self._storages = [found[address] for address in recording.addresses]
        self._count = len(recording.routes)
        fast: dict[torch.device, list[Words]] = {}
        rest: list[tuple[int, Route]] = []
        for output, route in enumerate(recording.routes):
            storage = self._storages[route.storage]
            words = _words(route.region, storage, output) if can_sum(storage.device) else None
            if words is None:
                rest.append((output, route))
            else:
                fast.setdefault(storage.device, []).extend(words)
        self._fast = {device: WordSums(device, words) for device, words in fast.items()}
        self._runs = list(_runs(rest))

    def compute(self) -> npt.NDArray[np.uint64]:
        """Returns the sums by route; waits for the device."""
        totals: dict[torch.device, torch.Tensor] = {}

        def total_of(device: torch.device) -> torch.Tensor:
            if device not in totals:
                totals[device] = torch.zeros(self._count, dtype=torch.int64, device=device)
            return totals[device]

        for device, words in self._fast.items():
            words.add_to(total_of(device))
        for run in self._runs:
            storage = self._storages[run.form.storage]
            _add(run, storage, total_of(storage.device))
        # Each route has its bytes in one storage: in the others' totals its sum is 0.
        whole = np.zeros(self._count, dtype=np.uint64)
        for total in totals.values():
            whole += total.cpu().numpy().view(np.uint64)
        return whole


def unit_of(region: Region) -> int:
    """Returns the largest unit in bytes, at most 8, that divides a region's place in its tensor."""
    numbers = (region.source, region.row, *(dim.source for dim in region.dims if dim.length != 1))
    return next(unit for unit in _UNITS if all(number % unit == 0 for number in numbers))


def _words(region: Region, storage: torch.UntypedStorage, output: int) -> list[Words] | None:
    """Returns a route as words; None if its units are not words, or if it begins at an odd place, or has very many separate
    rows.
    """
    dims = [dim for dim in region.dims if dim.length != 1]
    start = storage.data_ptr() + region.destination
    if unit_of(region) != 8 or any(number % 8 for number in (start, *(dim.destination for dim in dims))):
        return None
    if not dims:
        return [Words(start, 0, region.row // 8, 1, region.source // 8, 0, output)]
    longest = max(dims, key=lambda dim: dim.length)
    others = [dim for dim in dims if dim is not longest]
    if math.prod(dim.length for dim in others) > _MOST_ROWS:
        return None
    return [
        Words(
            start + sum(i * dim.destination for i, dim in zip(steps, others, strict=True)),
            longest.destination,
            region.row // 8,
            longest.length,
            (region.source + sum(i * dim.source for i, dim in zip(steps, others, strict=True))) // 8,
            longest.source // 8,
            output,
        )
        for steps in itertools.product(*(range(dim.length) for dim in others))
    ]


def _runs(routes: Sequence[tuple[int, Route]]) -> Iterator[_Run]:
    groups: dict[_Form, list[tuple[int, int]]] = {}
    for output, (_, storage, region) in routes:
        dims = tuple((dim.length, dim.source, dim.destination) for dim in region.dims if dim.length != 1)
        form = _Form(storage, region.source, region.row, dims, unit_of(region))
        groups.setdefault(form, []).append((region.destination, output))
    for form, members in groups.items():
        members.sort()
        first = 0
        while first < len(members):
            last = first + 1
            step = members[last][0] - members[first][0] if last < len(members) else 0
            while step > 0 and last < len(members) and members[last][0] - members[last - 1][0] == step:
                last += 1
            if step <= 0:
                step, last = 0, first + 1
            yield _Run(form, tuple(output for _, output in members[first:last]), members[first][0], step)
            first = last


def _add(run: _Run, storage: torch.UntypedStorage, total: torch.Tensor) -> None:
    """Adds the sums of a run's routes to ``total``, in steps of :func:`chunk_words` bytes."""
    form = run.form
    shape = (len(run.outputs), *(length for length, _, _ in form.dims), form.row // form.unit)
    sources = (0, *(source for _, source, _ in form.dims), form.unit)
    places = (run.step, *(place for _, _, place in form.dims), form.unit)
    outputs = torch.tensor(run.outputs, device=storage.device)
    for starts, lengths in _pieces(shape, chunk_words(storage.device)):
        position = form.source + sum(at * stride for at, stride in zip(starts, sources, strict=True))
        place = run.start + sum(at * stride for at, stride in zip(starts, places, strict=True))
        values = _values(storage, place, lengths, places, form.unit)
        mixed = _terms(values, position, lengths, sources, form.unit)
        sums = mixed.reshape(lengths[0], -1).sum(1)
        total.index_add_(0, outputs[starts[0] : starts[0] + lengths[0]], sums)


def _pieces(shape: tuple[int, ...], limit: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yields parts of at most ``limit`` elements: their starts and shapes."""
    size = 1
    for length in shape:
        size *= length
    if size <= limit:
        if size > 0:
            yield (0,) * len(shape), shape
        return
    axis = next(index for index, length in enumerate(shape) if length > 1)
    inner = size // shape[axis]
    step = max(1, limit // inner)
    for start in range(0, shape[axis], step):
        part = (*shape[:axis], min(step, shape[axis] - start), *shape[axis + 1 :])
        for starts, lengths in _pieces(part, limit):
            yield (*starts[:axis], starts[axis] + start, *starts[axis + 1 :]), lengths


def _values(
    storage: torch.UntypedStorage, place: int, lengths: tuple[int, ...], strides: tuple[int, ...], unit: int
) -> torch.Tensor:
    """Returns the bytes of a piece as units of ``unit`` bytes."""
    word = _UNITS[unit]
    if all(number % unit == 0 for number in (place, *strides[:-1])) and storage.data_ptr() % unit == 0:
        base = torch.empty(0, dtype=word, device=storage.device)
        base.set_(storage, place // unit, lengths, tuple(stride // unit for stride in strides))
        return base
    # The parameter begins at an odd place: copied byte by byte, into separate memory.
    base = torch.empty(0, dtype=torch.uint8, device=storage.device)
    base.set_(storage, place, (*lengths, unit), (*strides, 1))
    return base.clone(memory_format=torch.contiguous_format).view(word).reshape(lengths)


def _terms(values: torch.Tensor, position: int, lengths: tuple[int, ...], strides: tuple[int, ...], unit: int) -> torch.Tensor:
    """Returns the digest's terms of units that start at ``position`` in their tensor."""

    def along(axis: int, step: int) -> torch.Tensor:
        shape = [1] * len(lengths)
        shape[axis] = lengths[axis]
        return torch.arange(lengths[axis], dtype=torch.int64, device=values.device).mul_(step).reshape(shape)

    if unit == 8:
        mixed = values + along(len(lengths) - 1, GOLDEN).add_(_signed((position // 8 + 1) * GOLDEN))
        for axis in range(1, len(lengths) - 1):
            mixed.add_(along(axis, _signed(strides[axis] // 8 * GOLDEN)))
        return mix_(mixed)
    places = torch.full((1,) * len(lengths), position, dtype=torch.int64, device=values.device)
    for axis in range(1, len(lengths)):
        places = places + along(axis, strides[axis])
    words = values.to(torch.int64).bitwise_and_((1 << 8 * unit) - 1)
    words = words.bitwise_left_shift((places % 8) * 8)
    return mix_(words.add_((places // 8 + 1).mul_(GOLDEN)))


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
