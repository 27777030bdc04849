"""How weights get into a vLLM model that is being served, and what is undone when that fails."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from ..recording import Tracer
from .coverage import Coverage
from .target import Target
from .tied import TiedParameters

Named = tuple[str, torch.Tensor]


class WeightLoad(Protocol):
    """One update of some models."""

    #: Whether any parameter has changed.
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
    from .layerwise import LayerwiseLoad, reload_tools

    tools = reload_tools()
    if tools is not None:
        return LayerwiseLoad(targets, tools)
    from .in_place import InPlaceLoad

    return InPlaceLoad(targets, device)


def feed(
    targets: list[Target], tensors: Iterable[Named], coverage: Coverage, tied: TiedParameters, seen: list[torch.Tensor]
) -> None:
    """Hands one bucket to every model; ``seen`` gets its tensors."""
    bucket: list[Named] = []

    def passing() -> Iterator[Named]:
        for item in tensors:
            tied.saw(*item)
            bucket.append(item)
            seen.append(item[1])
            yield item

    with _without_completeness_checks(), coverage.counting():
        for index, target in enumerate(targets):
            loaded = target.model.load_weights(passing() if index == 0 else iter(bucket))  # type: ignore[operator]
            coverage.saw(index, loaded)


def _without_completeness_checks() -> AbstractContextManager[None]:
    """Multi-token-prediction models check that each load is a whole checkpoint; a bucket never is."""
    try:
        module = importlib.import_module("vllm.model_executor.model_loader.mtp_validation")
    except ImportError:
        return nullcontext()
    context: AbstractContextManager[None] = module.disable_mtp_completeness_check()
    return context
