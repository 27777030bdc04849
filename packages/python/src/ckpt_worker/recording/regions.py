"""Strided copies in bytes: their normal form, and their parts by source tensor."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch


class Dim(NamedTuple):
    """``length`` steps, with a distance in bytes on each side."""

    length: int
    source: int
    destination: int


class Region(NamedTuple):
    """Runs of ``row`` bytes; ``dims`` over them, outermost first. Offsets in bytes."""

    source: int
    destination: int
    row: int
    dims: tuple[Dim, ...]

    @property
    def size(self) -> int:
        """Number of bytes copied."""
        total = self.row
        for dim in self.dims:
            total *= dim.length
        return total

    @property
    def source_end(self) -> int:
        """Position after the last byte read."""
        return self.source + self.row + sum((dim.length - 1) * dim.source for dim in self.dims)

    @property
    def destination_end(self) -> int:
        """Position after the last byte written."""
        return self.destination + self.row + sum((dim.length - 1) * dim.destination for dim in self.dims)


class Extent(NamedTuple):
    """Position of a tensor in the ring, in bytes."""

    start: int
    end: int
    name: str


def region_of(destination: torch.Tensor, source: torch.Tensor, source_offset: int, destination_offset: int) -> Region:
    """Returns the copy of ``source`` to ``destination`` (of one shape and element size), with as few dimensions as possible."""
    size = destination.element_size()
    dims = [
        Dim(count, s * size, d * size)
        for count, s, d in zip(destination.shape, source.stride(), destination.stride(), strict=True)
        if count != 1
    ]
    return normal(Region(source_offset, destination_offset, size, tuple(dims)))


def normal(region: Region) -> Region:
    """Returns the same bytes with neighbouring dimensions joined; dimensions by falling destination stride."""
    row = region.row
    merged: list[Dim] = []
    for dim in sorted(region.dims, key=lambda dim: (dim.destination, dim.source)):
        if dim.length == 1:
            continue
        if not merged and dim.source == row and dim.destination == row:
            row *= dim.length
            continue
        inner = merged[-1] if merged else None
        if inner and dim.source == inner.length * inner.source and dim.destination == inner.length * inner.destination:
            merged[-1] = Dim(inner.length * dim.length, inner.source, inner.destination)
        else:
            merged.append(dim)
    return Region(region.source, region.destination, row, tuple(reversed(merged)))


def parts(region: Region, extents: Sequence[Extent]) -> Iterator[tuple[Extent | None, Region]]:
    """Splits the region at the borders of tensors; returns None if it reads bytes of no tensor.

    :param extents: ascending and disjoint. Source offsets of the parts count from their tensor's start.
    """
    index = bisect.bisect_right(extents, region.source, key=lambda extent: extent.start) - 1
    extent = extents[index] if index >= 0 else None
    if extent is not None and region.source_end <= extent.end:
        yield extent, normal(region._replace(source=region.source - extent.start))
        return
    if region.dims:
        widest = max(region.dims, key=lambda dim: dim.source)
        others = tuple(dim for dim in region.dims if dim is not widest)
        step = 0
        while step < widest.length:
            source, destination = region.source + step * widest.source, region.destination + step * widest.destination
            rest = Region(source, destination, region.row, others)
            # As many steps as stay in the tensor in which they begin.
            count = min(_steps_inside(rest, widest.source, extents), widest.length - step)
            taken = rest if count == 1 else rest._replace(dims=(Dim(count, widest.source, widest.destination), *others))
            yield from parts(taken, extents)
            step += count
        return
    if extent is None or region.source >= extent.end:
        yield None, region
        return
    head = extent.end - region.source
    yield extent, Region(region.source - extent.start, region.destination, head, ())
    yield from parts(Region(extent.end, region.destination + head, region.row - head, ()), extents)


def _steps_inside(region: Region, stride: int, extents: Sequence[Extent]) -> int:
    """Returns how often a region can be repeated, ``stride`` bytes further each time, inside the tensor in which it begins; at
    least 1.
    """
    index = bisect.bisect_right(extents, region.source, key=lambda extent: extent.start) - 1
    room = extents[index].end - region.source_end if index >= 0 else -1
    if room < 0:
        return 1
    return 1 + room // stride if stride > 0 else 1


def extent_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Returns the addresses of a tensor's first byte and of the byte after its last."""
    address = tensor.data_ptr()
    return address, address + span_of(tensor)


def span_of(tensor: torch.Tensor) -> int:
    """Returns the bytes from a tensor's first one to its last one."""
    if tensor.numel() == 0:
        return 0
    last = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(last + 1) * tensor.element_size()
