"""A few tensors of a direct update, loaded again by the engine's own loader: this must change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from ..errors import DigestMismatchError, StateError
from .contents import Contents

Named = tuple[str, torch.Tensor]


class SpotCheck:
    """Keeps copies of the tensors until everything is written."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._kept: list[Named] = []

    def keep(self, named: Iterable[Named]) -> None:
        """Copies the checked tensors of a bucket."""
        self._kept += [(name, tensor.clone()) for name, tensor in named if name in self.names]

    def run(self, load: Callable[[Iterable[Named]], None], parameters: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Lets the loader load them.

        :param load: returns when the device has finished.
        :raises DigestMismatchError: naming a parameter that holds other bytes afterwards.
        """
        missing = self.names - {name for name, _ in self._kept}
        if missing:
            raise StateError(f"{len(missing)} tensors to be checked did not arrive: {min(missing)!r}")
        before = Contents(parameters())
        load(iter(self._kept))
        changed = before.changed(parameters())
        if changed:
            text = f"parameter {min(changed)!r} differs from what the engine's own loader writes"
            what = f"{len(self.names)} tensors ({min(self.names)}, …) were loaded again to see this"
            remedy = "their recorded routes are wrong, and dropped; the next update is recorded again"
            raise DigestMismatchError(f"{text}: {what}; {remedy}", tensor=min(self.names))
