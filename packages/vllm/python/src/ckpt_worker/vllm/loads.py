"""How weights get into a vLLM model that is being served, and what is undone when that fails."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import LayoutError
from ..recording import Tracer

Named = tuple[str, torch.Tensor]


@dataclass(frozen=True)
class Target:
    """A model and the configuration it was made from."""

    model: torch.nn.Module
    config: Any
    #: Whether parameters that no tensor reaches are an error.
    complete: bool


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


class Coverage:
    """Which parameters the checkpoint has reached, by what the models say of their loads."""

    def __init__(self, targets: list[Target]) -> None:
        self._missing = [_parameters(target) for target in targets]

    def saw(self, index: int, loaded: object) -> None:
        """``loaded`` is what ``load_weights`` of the target returned; models that do not say are not checked."""
        missing = self._missing[index]
        if missing is None:
            return
        if isinstance(loaded, set):
            missing -= loaded
        else:
            self._missing[index] = None

    def trust(self) -> None:
        """The update brings the same tensors as one that was checked: nothing is missing, though not all of them are loaded."""
        self._missing = [None for _ in self._missing]

    def check(self) -> None:
        """:raises LayoutError: naming parameters that would keep their old values."""
        for missing in self._missing:
            if missing:
                some = ", ".join(sorted(missing)[:5])
                text = f"the checkpoint brings nothing for {len(missing)} parameters of the model: {some}"
                raise LayoutError(text, tensor=min(missing))


def _parameters(target: Target) -> set[str] | None:
    # Quantised models make parameters of their own that no checkpoint has.
    if not target.complete or getattr(target.config, "quantization", None) is not None:
        return None
    return {name for name, _ in target.model.named_parameters()}


def feed(targets: list[Target], tensors: Iterable[Named], coverage: Coverage, seen: list[torch.Tensor]) -> None:
    """Hands one bucket to every model; ``seen`` gets its tensors."""
    bucket: list[Named] = []

    def passing() -> Iterator[Named]:
        for item in tensors:
            bucket.append(item)
            seen.append(item[1])
            yield item

    with _without_completeness_checks():
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
