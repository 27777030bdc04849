"""Finds routes that write to bytes that others also write to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from .regions import Region

#: Maximum memory in bytes for a comparison; regions that would need more count as overlapping.
_MOST_CELLS: Final = 1 << 29
_Number = TypeVar("_Number", np.uint8, np.int64)


def overlapping(regions: Sequence[Region]) -> set[int]:
    """Returns indices of the regions of one storage whose destinations share bytes with another's, or with their own."""
    found: set[int] = set()
    for cluster in _clusters(regions):
        if len(cluster) == 1 and _plain(regions[cluster[0]]):
            continue
        found |= _shared([(index, regions[index]) for index in cluster])
    return found


def _clusters(regions: Sequence[Region]) -> Iterator[list[int]]:
    """Returns runs of regions with touching bounds."""
    order = sorted(range(len(regions)), key=lambda index: regions[index].destination)
    cluster: list[int] = []
    end = 0
    for index in order:
        if cluster and regions[index].destination >= end:
            yield cluster
            cluster = []
        cluster.append(index)
        end = max(end if len(cluster) > 1 else 0, regions[index].destination_end)
    if cluster:
        yield cluster


def _plain(region: Region) -> bool:
    """Returns True if rows of a region cannot overlap: each dimension steps over all of the ones inside it."""
    extent = region.row
    for dim in reversed(region.dims):
        if dim.destination < extent:
            return False
        extent += (dim.length - 1) * dim.destination
    return True


def _shared(members: list[tuple[int, Region]]) -> set[int]:
    base = min(region.destination for _, region in members)
    unit = 0
    for _, region in members:
        unit = math.gcd(unit, region.destination - base, region.row, *(dim.destination for dim in region.dims))
    cells = (max(region.destination_end for _, region in members) - base) // unit
    if cells > _MOST_CELLS:
        return {index for index, _ in members}
    counts = np.zeros(cells, dtype=np.uint8)
    for _, region in members:
        # One cell after the other if a region's own rows may overlap, because bytes written twice must count twice.
        view = _cells(counts, region, base, unit)
        if _plain(region):
            np.add(view, 1, out=view, where=view < 2)
        else:
            np.add.at(counts, _cells(np.arange(cells), region, base, unit).ravel(), 1)
    return {index for index, region in members if bool((_cells(counts, region, base, unit) > 1).any())}


def _cells(array: npt.NDArray[_Number], region: Region, base: int, unit: int) -> npt.NDArray[_Number]:
    size: int = array.dtype.itemsize
    shape = (*(dim.length for dim in region.dims), region.row // unit)
    strides = (*(dim.destination // unit * size for dim in region.dims), size)
    return np.lib.stride_tricks.as_strided(array[(region.destination - base) // unit :], shape, strides)
