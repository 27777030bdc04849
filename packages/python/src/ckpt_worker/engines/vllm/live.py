"""Layers whose serving parameters have the form of the checkpoint: these can be written in place.

vLLM's CPU backend packs the weights of linear layers and drops the parameters, and many quantised layers are transposed and
rescaled. On GPUs nearly everything of a model that is not quantised stays as it was loaded, and so do layers in FP8 blocks on
most kernels (:mod:`.processing`). After their parameters were written, the layers' own post-processing runs as after the first
load: it renews derived values.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch

from ...errors import UnsupportedError
from ...recording.shared_memory import is_shared, move_to_shared
from .processing import altered

#: Methods that keep parameters in the checkpoint's form, or convert them again on every call.
_METHODS: Final = (
    ("vllm.model_executor.layers.linear", "UnquantizedLinearMethod"),
    ("vllm.model_executor.layers.vocab_parallel_embedding", "UnquantizedEmbeddingMethod"),
    ("vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method", "UnquantizedFusedMoEMethod"),
)
#: Created after the checkpoint's form was recorded, so it is not part of it.
_UNNOTED: Final = "bias"


def live_layers(
    model: torch.nn.Module, info: Callable[[torch.nn.Module], Any], excepted: Callable[[torch.nn.Module], bool]
) -> list[torch.nn.Module]:
    """Returns layers of a model whose parameters and buffers have the checkpoint's form.

    :param info: a module's ``LayerReloadingInfo``, which knows that form.
    :param excepted: layers that must not be written to, whatever their form.
    """
    if getattr(model, "_do_torchao_reload", False):
        return []
    methods = tuple(_methods())
    return [layer for layer in model.modules() if not excepted(layer) and _is_live(layer, info(layer), methods)]


def is_converted(layer: torch.nn.Module) -> bool:
    """Returns True for a live layer whose parameters lack what their loaders need: see :class:`.forms.CheckpointForms`."""
    method = getattr(layer, "quant_method", None)
    return method is not None and type(method) not in tuple(_methods())


def share_early(layers: Iterable[torch.nn.Module]) -> bool:
    """Moves parameters on the CPU to shared memory; returns True if any was moved.

    Called before anything is derived from them, because packed weights may still refer to the memory from which they were made.
    If they cannot be moved, the recording gives the reason.
    """
    found = {}
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            if parameter.device.type == "cpu" and parameter.numel() > 0:
                storage = parameter.untyped_storage()
                if not is_shared(storage):
                    found[storage.data_ptr()] = storage
    try:
        move_to_shared([*found.values()], 2 * max((storage.nbytes() for storage in found.values()), default=0))
    except UnsupportedError:
        return False
    return bool(found)


def _methods() -> Iterator[type]:
    for module, name in _METHODS:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if isinstance(found, type):
            yield found


def _is_live(layer: torch.nn.Module, info: Any, methods: tuple[type, ...]) -> bool:
    # Attention: vLLM restores its scales and processes it when all other layers are done.
    if callable(getattr(layer, "process_weights_after_loading", None)):
        return False
    form = getattr(info, "restore_metadata", None)
    if form is None:
        return False
    pairs: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ((layer._parameters, form[0]), (layer._buffers, form[1]))
    for now, noted in pairs:
        tensors = {name: tensor for name, tensor in now.items() if tensor is not None}
        if now is layer._parameters and tensors.keys() - noted.keys() - {_UNNOTED}:
            return False
        for name, meta in noted.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.is_meta or _form(tensor) != _form(meta):
                return False
    method = getattr(layer, "quant_method", None)
    return method is None or type(method) in methods or altered(layer, form) is None


def _form(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())
