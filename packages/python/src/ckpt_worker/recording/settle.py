"""Converts what was watched into a recording: everything that is not certainly a copy of bytes becomes opaque."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from ..errors import UnsupportedError
from ..loading.digest import digest_tensor
from ..protocol.dtypes import DTYPE_BITS
from .casts import CAST, Cast
from .conflicts import check_conflicts, twins_of
from .overlaps import overlapping
from .recording import Parameter, Recording, Route, place_of
from .regions import Region, extent_of
from .seen import Copied
from .storages import share
from .tracer import Tracer

#: Maximum number of two-dimensional copies for a tensor's routes; more of them cost more than loading it.
_MOST_COPIES: Final = 65536


class Refusal(Exception):  # noqa: N818 - no failure: the update goes on
    """Reason why there is no recording."""


def settle(
    tracer: Tracer,
    parameters: Mapping[str, torch.Tensor],
    unshared: str | None = None,
    distrusted: Mapping[str, str] = MappingProxyType({}),
) -> Recording:
    """Returns the recording of an update whose loading is finished, including post-processing.

    :param parameters: everything that the engine computes with, by name.
    :param unshared: reason why storages must not be shared, if so.
    :param distrusted: tensors that must be opaque whatever was seen, with reasons.
    :raises Refusal: if nothing of the update is a route, or if the loader did more than was seen.
    :raises ConflictError: if two tensors with different bytes went to one place.
    """
    made = parameters.keys() - tracer.before
    if made:
        raise Refusal(f"{len(made)} parameters were made by this update ({min(made)}, …): the next one can be recorded")
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in parameters.values() if t.numel()}
    opaque = {name: reason for name, reason in distrusted.items() if name in tracer.tensors} | tracer.opaque
    copies = _kept(tracer, storages, opaque)
    changed = [False] * len(copies) if tracer.rehearsed else _check_digests(copies, storages, opaque)
    check_conflicts(copies, changed, tracer.writes, parameters)
    _check_unseen(tracer, parameters, copies, opaque)
    _check_writes(tracer, copies, parameters, opaque)
    by_storage = _routes(copies, opaque)
    for found in by_storage.values():
        for index in overlapping([region for _, region in found]):
            opaque.setdefault(found[index][0], "another copy writes to some of the same bytes")
    casts = _casts(tracer, storages, by_storage, distrusted)
    used = [address for address, found in by_storage.items() if any(name not in opaque for name, _ in found)]
    if not used:
        reasons = sorted(set(opaque.values()))[:3]
        raise Refusal(f"none of {len(tracer.tensors)} tensors is copied as it is: {'; '.join(reasons) or 'nothing was copied'}")
    handles: list[dict[str, Any]] | str
    try:
        handles = unshared or share([storages[address] for address in used], _reserve(tracer))
    except UnsupportedError as error:
        handles = str(error)
    # Sharing may have moved them.
    now = {address: (index, storages[address]) for index, address in enumerate(used)}
    indices = {name: index for index, name in enumerate(tracer.tensors)}
    routes = [
        Route(indices[name], now[address][0], region)
        for address in used
        for name, region in by_storage[address]
        if name not in opaque
    ]
    moved = {storage.data_ptr(): index for index, storage in now.values()}
    written = {*moved, *(storages[cast.storage].data_ptr() for cast in casts)}
    return Recording(
        tensors=[(name, dtype, shape) for name, (dtype, shape) in tracer.tensors.items()],
        storages=[storage.nbytes() for _, storage in now.values()],
        addresses=[storage.data_ptr() for _, storage in now.values()],
        parameters=_whole(parameters, moved, routes),
        routes=routes,
        opaque={indices[name]: reason for name, reason in opaque.items()},
        twins=[*twins_of(copies, tracer.tensors, parameters), *tracer.twins],
        handles=handles,
        rehearsed=tracer.rehearsed,
        casts=[cast._replace(storage=storages[cast.storage].data_ptr()) for cast in casts],
        places={
            name: place_of(tensor)
            for name, tensor in parameters.items()
            if tensor.numel() and tensor.untyped_storage().data_ptr() in written
        },
    )


def _casts(
    tracer: Tracer,
    storages: Mapping[int, torch.UntypedStorage],
    by_storage: Mapping[int, list[tuple[str, Region]]],
    distrusted: Mapping[str, str],
) -> list[Cast]:
    """Returns the casts of tensors with which nothing else was done, to places to which nothing else was written."""
    if tracer.unexplained or tracer.forked:
        return []
    beyond = (
        tracer.computed | tracer.escaped | distrusted.keys() | {name for copied in tracer.copies for name, _ in copied.parts}
    )
    written: list[tuple[int, int, str]] = []
    for write in tracer.writes:
        if write.operation != CAST:
            beyond |= write.names
        if not write.storage.expired():
            written.append((write.start, write.end, min(write.names) if write.operation == CAST else ""))
    for address, found in by_storage.items():
        written += [(address + region.destination, address + region.destination_end, name) for name, region in found]
    written.sort()
    starts = [start for start, _, _ in written]
    # The end of the longest one so far: before the first that ends too early, nothing overlaps.
    reached = [*itertools.accumulate((end for _, end, _ in written), max)]
    kept: dict[str, list[Cast]] = {}
    for seen in tracer.casts:
        cast = seen.cast
        start, end = cast.storage + cast.region.destination, cast.storage + cast.region.destination_end
        index = bisect.bisect_left(starts, end) - 1
        while index >= 0 and reached[index] > start:
            if written[index][1] > start and written[index][2] != cast.tensor:
                beyond.add(cast.tensor)
            index -= 1
        if seen.guided or seen.storage.expired() or cast.storage not in storages:
            beyond.add(cast.tensor)
            continue
        kept.setdefault(cast.tensor, []).append(cast)
    # Types differ where one tensor goes to two parameters: it is converted only once.
    return [
        cast for name, casts in kept.items() if name not in beyond and len({one.dtype for one in casts}) == 1 for cast in casts
    ]


def _reserve(tracer: Tracer) -> int:
    """Space in /dev/shm for later updates: a ring may use half of what is free, and must hold the largest tensor."""
    return 2 * max((math.prod(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in tracer.tensors.values()), default=0)


def _kept(tracer: Tracer, storages: Mapping[int, torch.UntypedStorage], opaque: dict[str, str]) -> list[Copied]:
    kept = []
    for copied in tracer.copies:
        names = {name for name, _ in copied.parts}
        reason = None
        if copied.storage.expired() or copied.address not in storages:
            reason = "it is copied to memory that is no parameter, or no longer"
        elif copied.guided is not None:
            reason = f"it is loaded after the loader had looked at values ({copied.guided})"
        if reason is None:
            kept.append(copied)
            continue
        for name in names:
            opaque.setdefault(name, reason)
    return kept


def _check_unseen(tracer: Tracer, parameters: Mapping[str, torch.Tensor], copies: list[Copied], opaque: dict[str, str]) -> None:
    """Returns True if the loader did nothing that was not seen.

    :raises Refusal: if it did, and nothing shows what.
    """
    if tracer.refusal is not None:
        raise Refusal(tracer.refusal)
    changed = tracer.unexplained
    if changed and not tracer.escaped and not tracer.forked:
        text = f"{len(changed)} parameters ({min(changed)}, …) changed without a copy that could be seen"
        raise Refusal(f"{text}: the loader writes to them outside torch")
    places = [extent_of(parameters[name]) for name in changed]
    for copied in copies:
        for name, region in copied.parts:
            start, end = copied.address + region.destination, copied.address + region.destination_end
            if any(start < other_end and other < end for other, other_end in places):
                opaque.setdefault(name, "its parameter is also written to outside torch")
    seen = {name for copied in tracer.copies for name, _ in copied.parts}
    for name, (_, shape) in tracer.tensors.items():
        if name in seen or name in opaque or 0 in shape:
            continue
        if name in tracer.held:
            opaque[name] = "its memory was asked for, and no copy of it was seen"
        elif tracer.forked:
            opaque[name] = "it was not seen to be used, and the loader started a process"
        elif changed:
            opaque[name] = f"it was not seen to be used, and parameter {min(changed)!r} changed outside torch"


def _check_digests(copies: list[Copied], storages: Mapping[int, torch.UntypedStorage], opaque: dict[str, str]) -> list[bool]:
    """Compares copied bytes with the current ones; returns one value per copy, true if they differ."""
    if not copies:
        return []
    expected = torch.stack([copied.digest for copied in copies]).tolist()
    found = torch.stack([_digest_there(copied, storages[copied.address]) for copied in copies]).tolist()
    for copied, before, after in zip(copies, expected, found, strict=True):
        if before != after:
            for name, _ in copied.parts:
                opaque.setdefault(name, "its bytes were changed after they were copied")
    return [before != after for before, after in zip(expected, found, strict=True)]


def _digest_there(copied: Copied, storage: torch.UntypedStorage) -> torch.Tensor:
    view = torch.empty(0, dtype=copied.dtype, device=storage.device)
    view.set_(storage, copied.offset, copied.shape, copied.stride)
    return digest_tensor(view.contiguous())


def _check_writes(tracer: Tracer, copies: list[Copied], parameters: Mapping[str, torch.Tensor], opaque: dict[str, str]) -> None:
    """Other writes to a parameter: over routes, or as a filling next to them."""
    for write in tracer.writes:
        if write.storage.expired():
            continue
        start, end = write.start, write.end
        if not write.names:
            # A constant that no route restores: the whole parameter continues to be loaded.
            for tensor in parameters.values():
                if not tensor.numel():
                    continue
                address = tensor.data_ptr()
                size = tensor.untyped_storage().nbytes() - int(tensor.storage_offset()) * tensor.element_size()
                if tensor.is_contiguous():
                    size = tensor.numel() * tensor.element_size()
                if address < write.end and write.start < address + size:
                    start, end = min(start, address), max(end, address + size)
        for copied in copies:
            for name, region in copied.parts:
                if copied.address + region.destination < end and start < copied.address + region.destination_end:
                    opaque.setdefault(name, f"the loader also writes to its parameter: {write.operation}")


def _routes(copies: list[Copied], opaque: dict[str, str]) -> dict[int, list[tuple[str, Region]]]:
    """By the storage's address; a copy made twice in the same way is listed once."""
    count: dict[str, int] = {}
    found: dict[int, dict[tuple[str, Region], None]] = {}
    for copied in copies:
        for name, region in copied.parts:
            outer = 1
            for dim in region.dims[:-1]:
                outer *= dim.length
            count[name] = count.get(name, 0) + outer
            found.setdefault(copied.address, {})[name, region] = None
    for name, copies_of in count.items():
        if copies_of > _MOST_COPIES:
            opaque.setdefault(name, f"it would take {copies_of} strided copies")
    return {address: [route for route in routes if route[0] not in opaque] for address, routes in found.items()}


def _whole(parameters: Mapping[str, torch.Tensor], storages: Mapping[int, int], routes: list[Route]) -> list[Parameter]:
    """Returns contiguous parameters that routes cover; routes do not overlap, so comparing sizes is sufficient."""
    spans: dict[tuple[int, int, int], str] = {}
    for name, tensor in parameters.items():
        index = storages.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
        if index is not None and tensor.is_contiguous():
            size = tensor.element_size()
            spans.setdefault((index, int(tensor.storage_offset()) * size, tensor.numel() * size), name)
    by_storage: dict[int, list[Region]] = {}
    for route in routes:
        by_storage.setdefault(route.storage, []).append(route.region)
    whole = []
    for (storage, offset, size), name in spans.items():
        inside = (r for r in by_storage.get(storage, ()) if r.destination >= offset and r.destination_end <= offset + size)
        if sum(region.size for region in inside) == size:
            whole.append(Parameter(name, storage, offset, size))
    return whole
