"""Loading layer by layer: vLLM collects the tensors of a layer, and processes the layer when all of them have arrived.

This is correct for every quantisation, and for parameters that were repacked or removed after the first load (as vLLM's CPU
backend does). A layer is created again in checkpoint form, loaded, processed, and copied over the serving one, whose addresses
stay. Until a layer is complete vLLM only *refers* to its tensors. They are in the ring, which is overwritten next, so tensors
that are still referenced after a bucket are copied.

Layers whose parameters have the checkpoint's form are loaded in place (:mod:`.live`): vLLM's reload runs each loader twice, and
wraps all loaders of a layer again at each tensor. Only there can a copy be recorded that a rank could make itself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch

from ...recording import Tracer
from ...recording.watched import address_of
from .coverage import Coverage
from .experts import ExpertKernels
from .feed import Named, feed
from .forms import CheckpointForms, process
from .live import is_converted, live_layers, share_early
from .target import Target
from .tied import TiedParameters


class ReloadTools(NamedTuple):
    """vLLM's tools for it (``vllm.model_executor.model_loader.reload``)."""

    initialize: Callable[[torch.nn.Module], None]
    finalize: Callable[[torch.nn.Module, Any], None]
    #: Returns a module's ``LayerReloadingInfo``.
    info: Callable[[torch.nn.Module], Any]


def reload_tools() -> ReloadTools | None:
    """Returns the installed version's tools, or None if it has none that are known."""
    try:
        module = importlib.import_module("vllm.model_executor.model_loader.reload.layerwise")
        return ReloadTools(module.initialize_layerwise_reload, module.finalize_layerwise_reload, module.get_layerwise_info)
    except (ImportError, AttributeError):
        return None


class LayerwiseLoad:
    """Loads models layer by layer."""

    def __init__(self, targets: list[Target], tools: ReloadTools) -> None:
        self._targets, self._tools = targets, tools
        self._coverage, self._tied = Coverage(targets), TiedParameters(targets)
        self._experts = ExpertKernels(target.model for target in targets)
        # Layers that wait for tensors; None before the first load and after the end.
        self._waiting: list[torch.nn.Module] | None = None
        # Layers that are loaded in place; those among them whose parameters lack what their loaders need.
        self._live: list[torch.nn.Module] = []
        self._converted: list[torch.nn.Module] = []
        self._forms = CheckpointForms(tools.info)
        self._tracer: Tracer | None = None
        self.changed = False

    def watch(self, tracer: Tracer, share: bool) -> None:
        """Called if the update is recorded."""
        self._find_live()
        self._tracer = tracer
        self._tied.watch(tracer)
        if share and share_early(self._live):
            self._process_live()

    def begin_direct(self) -> None:
        """Called before a rank writes into parameters, or recorded copies are replayed."""
        self._find_live()
        self._coverage.trust()
        self.changed = True

    def load(self, tensors: Iterable[Named]) -> None:
        """Loads complete layers, and copies the rest out of the ring."""
        if self._waiting is None:
            self._find_live()
            self._experts.set_aside()
            self._forms.present(self._converted)
        waiting = self._begin()
        seen: list[torch.Tensor] = []
        try:
            feed(self._targets, tensors, self._coverage, self._tied, seen)
        finally:
            # The first tensor for a serving layer changes it.
            self.changed |= bool(self._live) and self._coverage.may_have_seen_writes
        ring = {address_of(tensor) for tensor in seen if tensor.numel() > 0}
        seen.clear()
        self._detach(waiting, ring)

    def _find_live(self) -> None:
        info, kept = self._tools.info, self._experts.kept
        self._live = [layer for target in self._targets for layer in live_layers(target.model, info, kept)]
        self._converted = [layer for layer in self._live if is_converted(layer)]

    def _process_live(self) -> None:
        converted = set(self._converted)
        for layer in self._live:
            if layer not in converted:
                process(layer)
        self._forms.present(self._converted)
        self._forms.process()

    def _parts(self) -> Iterator[tuple[torch.nn.Module, Target]]:
        """Returns the models for vLLM's tools: all of their layers except the live ones."""
        live = set(self._live)
        for target in self._targets:
            if not live:
                yield target.model, target
                continue
            layers = [layer for layer in target.model.modules() if layer not in live]
            yield cast(torch.nn.Module, _Part(target.model, layers)), target

    def _begin(self) -> list[torch.nn.Module]:
        """Creates layers again, once. Called before anything can fail: `abandon` then undoes as much as was done."""
        if self._waiting is None:
            parts = [part for part, _ in self._parts()]
            self._waiting = [layer for part in parts for layer in part.modules()]
            for part in parts:
                self._tools.initialize(part)
            if self._tracer is not None:
                for layer in self._waiting:
                    _load_aside(layer, self._tracer)
        return self._waiting

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
        """Processes the remaining layers at the end, after checking that nothing is missing."""
        self._coverage.check(self._forms.layers)
        self.changed = True
        # Attention comes last, with the rest, because some of it computes with its layers' parameters.
        self._process_live()
        idle = [layer for layer in self._begin() if self._tools.info(layer).load_numel <= 0]
        self._experts.put_back(idle)
        for part, target in self._parts():
            self._tools.finalize(part, target.config)
        self._waiting = None
        for layer in idle:
            _repack(layer)

    def abandon(self) -> None:
        """Gives incomplete layers their old parameters back."""
        self._forms.restore()
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        unfinished = [layer for layer in waiting if self._tools.info(layer).can_load()]
        self.changed |= len(unfinished) < len(waiting)
        self._experts.put_back(unfinished)
        for layer in unfinished:
            info = self._tools.info(layer)
            # As if it had received nothing: the finalizer then restores the old tensors.
            info.loaded_weights.clear()
            info.load_numel = 0
        for part, target in self._parts():
            self._tools.finalize(part, target.config)


class _Part:
    """Some layers of a model, presented as a model: vLLM's tools use its modules and attributes."""

    def __init__(self, model: torch.nn.Module, layers: list[torch.nn.Module]) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_layers", layers)

    def modules(self) -> Iterator[torch.nn.Module]:
        """The layers."""
        return iter(self._layers)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_model"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)


def _load_aside(layer: torch.nn.Module, tracer: Tracer) -> None:
    """The tensors of a recreated layer are computed with, so watching them is unnecessary."""
    reason = f"its layer ({type(layer).__name__}) is converted into a different form by vLLM"
    for tensor in (*layer._parameters.values(), *layer._buffers.values()):
        loader = getattr(tensor, "weight_loader", None)
        # vLLM recognises its own wrapper by this name, and unwraps it.
        if getattr(loader, "__name__", "") == "online_process_loader":
            tensor.weight_loader = _aside(loader, tracer, reason)  # type: ignore[union-attr,arg-type]


def _aside(loader: Callable[..., Any], tracer: Tracer, reason: str) -> Callable[..., Any]:
    @functools.wraps(loader)
    def online_process_loader(*args: Any, **kwargs: Any) -> Any:
        with tracer.aside(reason, args, kwargs):
            return loader(*args, **kwargs)

    return online_process_loader


def _repack(layer: torch.nn.Module) -> None:
    """Renews the packed copy of a layer's weights that vLLM's CPU backend multiplies by.

    A layer that shares its weights with another one, as an output head with tied embeddings does, is not loaded itself: its
    weights are new, but its copy is not.
    """
    weight = getattr(layer, "weight", None)
    if hasattr(layer, "cpu_linear") and isinstance(weight, torch.Tensor) and weight.numel() > 0 and not weight.is_meta:
        layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]


def _own(value: Any, ring: set[int]) -> Any:
    """Returns ``value`` with copies of its tensors that are in the ring."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 0 and not value.is_meta and address_of(value) in ring:
            return value.clone()
        return value
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_own(item, ring) for item in value)
    if isinstance(value, dict):
        return {key: _own(item, ring) for key, item in value.items()}
    return value
