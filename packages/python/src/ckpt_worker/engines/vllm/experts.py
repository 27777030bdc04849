"""Kernels of expert layers that vLLM sets up only at the first load.

Some of them (those for CPUs, in vLLM 0.32) also convert the layer's weights into their own form then. A reload leaves the
weights in a form that differs from what the kernel reads, and the model produces wrong answers without an error: vLLM's own
``reload_weights`` does this. Such kernels are removed before a reload, so that it sets them up again like the first load.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from ...errors import UnsupportedError


class _Kept(NamedTuple):
    method: Any
    kernel: Any
    config: Any


class ExpertKernels:
    """Kernels of some models that have to be set up again."""

    def __init__(self, models: Iterable[torch.nn.Module]) -> None:
        self._kept: dict[torch.nn.Module, _Kept] = {}
        base = _base()
        if base is None:
            return
        for model in models:
            for name, layer in model.named_modules():
                method = getattr(layer, "quant_method", None)
                kernel = getattr(method, "moe_kernel", None)
                experts = getattr(kernel, "fused_experts", None)
                if experts is None or type(experts).process_weights_after_loading is base.process_weights_after_loading:
                    continue
                if any(parameter.device.type != "cpu" for parameter in layer.parameters()):
                    # Graphs may have captured the kernel's contents.
                    kind = type(experts).__name__
                    raise UnsupportedError(
                        f"the expert kernel {kind} of {name!r} converts weights into a form that a reload does not repeat"
                    )
                self._kept[layer] = _Kept(method, kernel, getattr(method, "moe_quant_config", None))

    def kept(self, layer: torch.nn.Module) -> bool:
        """Returns True if the layer has such a kernel."""
        return layer in self._kept

    def set_aside(self) -> None:
        """Call before the reload."""
        for method, _, _ in self._kept.values():
            method.moe_kernel = None

    def put_back(self, layers: Iterable[torch.nn.Module]) -> None:
        """Restores kernels of layers that keep their old weights."""
        for layer in layers:
            kept = self._kept.get(layer)
            if kept is not None:
                kept.method.moe_kernel, kept.method.moe_quant_config = kept.kernel, kept.config


def _base() -> Any:
    try:
        module = importlib.import_module("vllm.model_executor.layers.fused_moe.modular_kernel")
        base = module.FusedMoEExperts
    except (ImportError, AttributeError):
        return None
    return base if hasattr(base, "process_weights_after_loading") else None
