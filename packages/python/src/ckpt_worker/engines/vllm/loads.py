"""How weights get into a vLLM model that is being served, and what is undone when that fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from ...recording import Tracer
from .feed import Named
from .in_place import InPlaceLoad
from .layerwise import LayerwiseLoad, reload_tools
from .target import Target


class WeightLoad(Protocol):
    """One update of some models."""

    #: True if any parameter has changed.
    changed: bool

    def watch(self, tracer: Tracer, share: bool) -> None:
        """Before the first load of an update that is recorded; with ``share`` ranks are to write into parameters then."""

    def begin_direct(self) -> None:
        """Before a rank writes into parameters, or recorded copies are replayed: not all tensors will be given to ``load``."""

    def load(self, tensors: Iterable[Named]) -> None:
        """Takes the tensors of one bucket. They are the caller's again when it returns."""

    def finish(self) -> None:
        """Brings the models into the form in which they serve; the update is over then."""

    def abandon(self) -> None:
        """Gives up: every layer is whole, with its old weights or its new ones. Does nothing after a finish."""


def open_load(targets: list[Target], device: torch.device) -> WeightLoad:
    """The way of loading that fits the installed version. Nothing changes before the first load.

    :raises UnsupportedError: where this version cannot do it without damage; says why.
    """
    tools = reload_tools()
    if tools is not None:
        return LayerwiseLoad(targets, tools)
    return InPlaceLoad(targets, device)
