"""Loading directly into the serving parameters, for versions of vLLM that cannot reload layer by layer."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import torch

from ...errors import UnsupportedError
from ...recording import Tracer
from .coverage import Coverage
from .feed import Named, feed
from .live import share_early
from .target import Target
from .tied import TiedParameters


class InPlaceLoad:
    """Writes every tensor to the place that the model's own loader chooses. Only for parameters that still have the
    checkpoint's form.

    :raises UnsupportedError: for a model whose parameters do not.
    """

    def __init__(self, targets: list[Target], device: torch.device) -> None:
        for target in targets:
            _check_form(target)
        self._targets, self._device = targets, device
        self._coverage, self._tied = Coverage(targets), TiedParameters(targets)
        self.changed = False

    def watch(self, tracer: Tracer, share: bool) -> None:
        """Called if the update is recorded."""
        self._tied.watch(tracer)
        if share and share_early(layer for target in self._targets for layer in target.model.modules()):
            self._process()

    def begin_direct(self) -> None:
        """Called before a rank writes into parameters, or recorded copies are replayed."""
        self._coverage.trust()
        self.changed = True

    def load(self, tensors: Iterable[Named]) -> None:
        """Loads immediately."""
        self.changed = True
        feed(self._targets, tensors, self._coverage, self._tied, [])

    def finish(self) -> None:
        """Lets vLLM compute the values that it derives from the parameters."""
        self._coverage.check()
        self.changed = True
        self._process()

    def _process(self) -> None:
        process = importlib.import_module("vllm.model_executor.model_loader.utils").process_weights_after_loading
        for target in self._targets:
            process(target.model, target.config, self._device)

    def abandon(self) -> None:
        """Restores nothing: written bytes stay."""


def _check_form(target: Target) -> None:
    quantization = getattr(target.config, "quantization", None)
    if quantization is not None:
        text = f"this version of vLLM cannot reload a quantised model ({quantization}) in pieces without damage"
        raise UnsupportedError(f"{text}: its layers were repacked after the first load; update vLLM")
    for name, parameter in target.model.named_parameters():
        if parameter.numel() == 0 or parameter.is_meta:
            text = f"this version of vLLM has dropped parameter {name!r} after the first load and cannot recreate it"
            raise UnsupportedError(f"{text}; update vLLM", tensor=name)
