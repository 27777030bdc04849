"""Recorded copies, made by the worker itself: out of the ring, in place of the engine's loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from ..errors import StaleRoutesError
from ..loading.copies import Copy, CopyPlan
from ..protocol.messages import TensorEntry
from .recording import Recording
from .regions import Region


class Replay:
    """The copies of one recording. They are combined bucket by bucket, and kept for the buckets of the next update.

    It keeps the storages that it writes to: drop it when the recording does not match any more.
    """

    def __init__(self, recording: Recording, parameters: Mapping[str, torch.Tensor]) -> None:
        """:param parameters: those that match the recording."""
        found = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in parameters.values() if t.numel()}
        storages = [found[address] for address in recording.addresses]
        self._known = {name: (dtype, shape) for name, dtype, shape in recording.tensors}
        self._opaque = {recording.tensors[index][0] for index in recording.opaque}
        self._routes: dict[str, list[tuple[torch.UntypedStorage, Region]]] = {}
        for tensor, storage, region in recording.routes:
            self._routes.setdefault(recording.tensors[tensor][0], []).append((storages[storage], region))
        self._plans: dict[str, tuple[list[tuple[str, int]], CopyPlan]] = {}

    @property
    def tensors(self) -> int:
        """Number of tensors that it copies."""
        return len(self._routes)

    def run(self, ring: torch.Tensor, entries: Iterable[TensorEntry]) -> set[str]:
        """Makes the recorded copies of a bucket's tensors; returns the names of those for the loader.

        :param ring: the ring's bytes.
        :raises StaleRoutesError: for a tensor that differs from the recorded one.
        """
        left: set[str] = set()
        sources: list[tuple[str, int]] = []
        start = ring.data_ptr() - ring.untyped_storage().data_ptr()
        for entry in entries:
            if self._known.get(entry.name) != (entry.dtype, entry.shape):
                text = f"tensor {entry.name!r} ({entry.dtype} {entry.shape}) is not part of the recorded update"
                raise StaleRoutesError(text, tensor=entry.name)
            if entry.name in self._opaque:
                left.add(entry.name)
            elif entry.name in self._routes:
                sources.append((entry.name, start + entry.offset))
        if sources:
            first = sources[0][0]
            plan = self._plans.get(first)
            if plan is None or plan[0] != sources:
                plan = self._plans[first] = (sources, CopyPlan(self._copies(sources)))
            plan[1].run(ring)
        return left

    def _copies(self, sources: list[tuple[str, int]]) -> Iterator[Copy]:
        for name, offset in sources:
            for storage, region in self._routes[name]:
                target = torch.empty(0, dtype=torch.uint8, device=storage.device)
                shape = (*(dim.length for dim in region.dims), region.row)
                target.set_(storage, region.destination, shape, (*(dim.destination for dim in region.dims), 1))
                yield Copy(None, target, offset + region.source, (*(dim.source for dim in region.dims), 1))
