"""Loading layer by layer: vLLM collects what belongs to a layer, and processes the layer when all of it is there.

Right for every quantisation, and for parameters that were repacked or removed after the first load (as vLLM's CPU backend
does): a layer is made anew in checkpoint form, loaded, processed, and copied over the one that serves, whose addresses stay.
Until a layer is complete vLLM only *refers* to its tensors. They lie in the ring, which is overwritten next; so what is still
referred to after a bucket is copied.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from .experts import ExpertKernels
from .loads import Coverage, Named, Target, feed


class ReloadTools(NamedTuple):
    """What vLLM offers for it (``vllm.model_executor.model_loader.reload``)."""

    initialize: Callable[[torch.nn.Module], None]
    finalize: Callable[[torch.nn.Module, Any], None]
    #: Gives a module's ``LayerReloadingInfo``.
    info: Callable[[torch.nn.Module], Any]


def reload_tools() -> ReloadTools | None:
    """The installed version's tools, or None where it has none that are known."""
    try:
        module = importlib.import_module("vllm.model_executor.model_loader.reload.layerwise")
        return ReloadTools(module.initialize_layerwise_reload, module.finalize_layerwise_reload, module.get_layerwise_info)
    except (ImportError, AttributeError):
        return None


class LayerwiseLoad:
    """Loads models layer by layer."""

    def __init__(self, targets: list[Target], tools: ReloadTools) -> None:
        self._targets, self._tools = targets, tools
        self._coverage = Coverage(targets)
        self._experts = ExpertKernels(target.model for target in targets)
        # Layers that wait for tensors; None before the first load and after the end.
        self._waiting: list[torch.nn.Module] | None = None
        self.changed = False

    def load(self, tensors: Iterable[Named]) -> None:
        """Loads what is complete, and copies the rest out of the ring."""
        if self._waiting is None:
            # Before anything can fail: `abandon` then undoes as much as was done.
            self._waiting = [layer for target in self._targets for layer in target.model.modules()]
            self._experts.set_aside()
            for target in self._targets:
                self._tools.initialize(target.model)
        seen: list[torch.Tensor] = []
        feed(self._targets, tensors, self._coverage, seen)
        ring = {tensor.untyped_storage().data_ptr() for tensor in seen if tensor.numel() > 0}
        seen.clear()
        self._detach(self._waiting, ring)

    def _detach(self, layers: list[torch.nn.Module], ring: set[int]) -> None:
        still: list[torch.nn.Module] = []
        for layer in layers:
            info = self._tools.info(layer)
            if not info.can_load():
                self.changed = True
                continue
            still.append(layer)
            for _, bound in info.loaded_weights:
                for key, value in bound.arguments.items():
                    bound.arguments[key] = _own(value, ring)
        self._waiting = still

    def finish(self) -> None:
        """Processes what was left for the end, after checking that nothing is missing."""
        self._coverage.check()
        self.changed = True
        idle = [layer for layer in self._waiting or [] if self._tools.info(layer).load_numel <= 0]
        for target in self._targets:
            self._tools.finalize(target.model, target.config)
        self._waiting = None
        for layer in idle:
            _repack(layer)

    def abandon(self) -> None:
        """Layers that did not become complete get their old parameters back."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        unfinished = [layer for layer in waiting if self._tools.info(layer).can_load()]
        self.changed |= len(unfinished) < len(waiting)
        self._experts.put_back(unfinished)
        for layer in unfinished:
            info = self._tools.info(layer)
            # As if nothing had come for it: the finalizer then puts the old tensors back.
            info.loaded_weights.clear()
            info.load_numel = 0
        for target in self._targets:
            self._tools.finalize(target.model, target.config)


def _repack(layer: torch.nn.Module) -> None:
    """Renews the packed copy of a layer's weights that vLLM's CPU backend multiplies by.

    A layer that shares its weights with another one, as an output head does with tied embeddings, is not loaded itself: its
    weights are new then, its copy is not.
    """
    weight = getattr(layer, "weight", None)
    if hasattr(layer, "cpu_linear") and isinstance(weight, torch.Tensor) and weight.numel() > 0 and not weight.is_meta:
        layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]


def _own(value: Any, ring: set[int]) -> Any:
    """``value`` with copies of the tensors in it that lie in the ring."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 0 and not value.is_meta and value.untyped_storage().data_ptr() in ring:
            return value.clone()
        return value
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_own(item, ring) for item in value)
    if isinstance(value, dict):
        return {key: _own(item, ring) for key, item in value.items()}
    return value
