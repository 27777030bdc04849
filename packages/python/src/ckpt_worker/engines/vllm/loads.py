"""Ways to load weights into a serving vLLM model, and to undo a failed load."""

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
        """Called before the first load of a recorded update; with ``share`` ranks may write into parameters then."""

    def begin_direct(self) -> None:
        """Called before a rank writes into parameters, or copies are replayed: ``load`` will not receive all tensors."""

    def load(self, tensors: Iterable[Named]) -> None:
        """Takes the tensors of one bucket. They belong to the caller again when it returns."""

    def finish(self) -> None:
        """Converts the models into the form in which they serve; the update is over then."""

    def abandon(self) -> None:
        """Gives up: every layer is complete, with its old or its new weights. Does nothing after a finish."""


def open_load(targets: list[Target], device: torch.device) -> WeightLoad:
    """Returns the way of loading for the installed version. Nothing changes before the first load.

    :raises UnsupportedError: with the reason, if this version cannot do it without damage.
    """
    tools = reload_tools()
    if tools is not None:
        return LayerwiseLoad(targets, tools)
    return InPlaceLoad(targets, device)
