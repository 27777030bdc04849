"""Which tensors of an update are in which memory: copied there as they are, or as part of what was computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Origins:
    """Names of tensors by storage. It holds no storage; what is known of one ends with it."""

    def __init__(self, key: Callable[[torch.Tensor], int | None]) -> None:
        """:param key: returns a name for a tensor's memory; None if it has none."""
        self._key = key
        self._computed: dict[int, tuple[StorageWeakRef, frozenset[str]]] = {}
        self._copied: dict[int, tuple[StorageWeakRef, set[str]]] = {}

    def compute(self, tensor: torch.Tensor, names: Iterable[str]) -> None:
        """Notes that a tensor was computed from others."""
        key = self._key(tensor)
        if key is not None:
            self._computed[key] = (StorageWeakRef(tensor.untyped_storage()), self.computed(tensor).union(names))

    def computed(self, tensor: torch.Tensor) -> frozenset[str]:
        """Returns the tensors from which one was computed."""
        key = self._key(tensor)
        found = None if key is None else self._computed.get(key)
        return frozenset() if found is None or found[0].expired() else found[1]

    def copy(self, tensor: torch.Tensor, names: Iterable[str]) -> None:
        """Notes that tensors were copied into one, as they are."""
        key = self._key(tensor)
        if key is None:
            return
        found = self._copied.get(key)
        if found is None or found[0].expired():
            self._copied[key] = (StorageWeakRef(tensor.untyped_storage()), set(names))
        else:
            found[1].update(names)

    def copied(self, tensor: torch.Tensor) -> frozenset[str]:
        """Returns the tensors that were copied into the storage of one."""
        key = self._key(tensor)
        found = None if key is None else self._copied.get(key)
        return frozenset() if found is None or found[0].expired() else frozenset(found[1])
