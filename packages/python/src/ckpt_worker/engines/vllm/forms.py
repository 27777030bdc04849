"""Layers that vLLM has processed and whose memory is as it was loaded, presented as their loaders know them.

Processing wraps parameters in new objects without the attributes that loaders need (how a scale is cut, which loader it has).
For loading, such layers get parameters of the class and attributes that vLLM noted before the first load, over the serving
memory. Afterwards the layers are processed again, because kernels may keep references, and get their serving parameters back.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from weakref import WeakSet

import torch

from ...errors import StateError
from ...recording import Contents
from ...recording.recording import place_of
from .processing import ALREADY, distrust

#: Layers whose processing was seen to change no byte, with data.
_seen: WeakSet[torch.nn.Module] = WeakSet()


class CheckpointForms:
    """Layers of one load that are presented."""

    def __init__(self, info: Callable[[torch.nn.Module], Any]) -> None:
        """:param info: a module's ``LayerReloadingInfo``."""
        self._info = info
        #: Their serving parameters.
        self._served: dict[torch.nn.Module, dict[str, torch.nn.Parameter | None]] = {}

    @property
    def layers(self) -> Iterable[torch.nn.Module]:
        """The layers that are presented now."""
        return self._served.keys()

    def present(self, layers: Iterable[torch.nn.Module]) -> None:
        """Presents the given layers, except those that are presented already."""
        for layer in layers:
            if layer in self._served:
                continue
            self._served[layer] = served = dict(layer._parameters)
            for name, noted in self._info(layer).restore_metadata[0].items():
                layer._parameters[name] = _over(cast(torch.nn.Parameter, served[name]), noted, layer)

    def process(self) -> None:
        """Processes the presented layers, and ends their presentation.

        :raises StateError: naming a layer whose parameters that replaces or changes; it is never presented again.
        """
        contents = Contents(self._parameters(layer for layer in self._served if layer not in _seen))
        try:
            for layer, served in self._served.items():
                process(layer)
                for name, parameter in served.items():
                    now = layer._parameters.get(name)
                    if parameter is not None and (now is None or place_of(now.data) != place_of(parameter.data)):
                        raise self._refusal(layer, f"replaces {name!r}")
            for name in contents.changed(self._parameters(self._served)):
                raise self._refusal(self._by_name(name), f"changes {name.partition(': ')[2]!r}")
            _seen.update(self._served)
        finally:
            self.restore()

    def restore(self) -> None:
        """Gives the presented layers their serving parameters back."""
        for layer, served in self._served.items():
            layer._parameters.clear()
            layer._parameters.update(served)
        self._served.clear()

    def _parameters(self, layers: Iterable[torch.nn.Module]) -> Mapping[str, torch.Tensor]:
        return {
            f"{id(layer)}: {name}": parameter.data
            for layer in layers
            for name, parameter in self._served[layer].items()
            if parameter is not None
        }

    def _by_name(self, name: str) -> torch.nn.Module:
        return next(layer for layer in self._served if name.startswith(f"{id(layer)}: "))

    def _refusal(self, layer: torch.nn.Module, what: str) -> StateError:
        kind = type(layer).__name__
        distrust(layer, f"processing it {what}")
        return StateError(
            f"vLLM's processing of a loaded {kind} {what}, which it did not without data: the next update goes another way"
        )


def process(layer: torch.nn.Module) -> None:
    """Runs a layer's own processing, as after the first load."""
    method: Any = getattr(layer, "quant_method", None)
    if method is not None:
        layer.__dict__.pop(ALREADY, None)
        method.process_weights_after_loading(layer)


def _over(serving: torch.nn.Parameter, noted: torch.Tensor, layer: torch.nn.Module) -> torch.nn.Parameter:
    memory = serving.data.as_strided(noted.size(), noted.stride())
    memory.__class__ = noted.__class__
    memory.__dict__ = noted.__dict__.copy()
    with contextlib.suppress(ImportError, AttributeError):
        # What vLLM noted refers to its layer by a stand-in.
        importlib.import_module("vllm.model_executor.model_loader.reload.sanitize").restore_layer_refs(memory, layer)
    return cast(torch.nn.Parameter, memory)
