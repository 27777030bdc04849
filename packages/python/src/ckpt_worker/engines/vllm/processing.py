"""Finds out, without data, if a layer's post-processing leaves the memory of its parameters as it was loaded.

Quantised layers are processed after loading: some kernels need other forms, others take the parameters as they are and only
wrap them in new objects (FP8 in blocks on most kernels). The processing runs here on a twin of the layer whose parameters are
on torch's meta device: it shows which operations it would do, and which memory it would keep. If it writes to no parameter,
computes nothing with them and keeps their memory, then what serves is what was loaded, byte for byte, and nothing is derived
from it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...recording import no_addresses
from ...recording.operations import VALUELESS, written_by
from ...recording.watched import unseen

#: Parameters and buffers of a layer by name, on the meta device, as its loader needs them.
Noted = tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]

#: Set by vLLM once a layer was processed.
ALREADY: Final = "_already_called_process_weights_after_loading"


class _Found(NamedTuple):
    method: int
    noted: Noted
    reason: str | None


_found: WeakKeyDictionary[torch.nn.Module, _Found] = WeakKeyDictionary()
#: Layers of which something else was seen with data, and what.
_distrusted: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def altered(layer: torch.nn.Module, noted: Noted) -> str | None:
    """Returns the reason why the processing of a layer does not leave its parameters as they were loaded, or cannot be shown
    to; None if it does. Nothing is changed.

    :param layer: its parameters have the names and forms of ``noted`` now.
    """
    if layer in _distrusted:
        return _distrusted[layer]
    found = _found.get(layer)
    if found is None or found.method != id(layer.quant_method) or found.noted is not noted:
        _found[layer] = found = _Found(id(layer.quant_method), noted, _run(layer, noted))
    return found.reason


def conversion(layer: torch.nn.Module) -> str | None:
    """Returns what :func:`altered` has found of a layer; None if it was not asked, or found nothing."""
    found = _found.get(layer)
    return _distrusted.get(layer) or (None if found is None else found.reason)


def distrust(layer: torch.nn.Module, reason: str) -> None:
    """From now on :func:`altered` gives this reason for the layer."""
    _distrusted[layer] = reason


def _run(layer: torch.nn.Module, noted: Noted) -> str | None:
    try:
        twin = _twin(layer, noted)
        before = {**twin._parameters, **{name: twin._buffers[name] for name in noted[1]}}
        tensors = {name: tensor for name, tensor in before.items() if tensor is not None}
        kept = {name: _place(tensor) for name, tensor in tensors.items()}
        with unseen(), torch.no_grad(), no_addresses(), _Processing(tensors.values()):
            twin.quant_method.process_weights_after_loading(twin)  # type: ignore[union-attr,operator]
    except Exception as error:  # any engine's kernel may do anything
        return str(error) if isinstance(error, _AlteredError) else f"{type(error).__name__}: {error}"
    after = {**twin._parameters, **twin._buffers}
    for name, place in kept.items():
        tensor = after.get(name)
        if tensor is None or not tensor.is_meta or _place(tensor) != place:
            return f"it replaces {name!r}"
    if any(tensor is not None and name not in before for name, tensor in twin._parameters.items()):
        return "it adds parameters"
    return None


def _twin(layer: torch.nn.Module, noted: Noted) -> torch.nn.Module:
    twin: torch.nn.Module = _shallow(layer)
    twin.__dict__.pop(ALREADY, None)
    for name, tensor in layer._parameters.items():
        # One that was created later, such as a bias, is not noted.
        twin._parameters[name] = None if tensor is None else cast(torch.nn.Parameter, _on_meta(noted[0].get(name, tensor)))
    for name, buffer in noted[1].items():
        twin._buffers[name] = _on_meta(buffer)
    method = _shallow(layer.quant_method)
    # Kernels note what they have prepared.
    for name, value in vars(layer.quant_method).items():
        if callable(getattr(value, "process_weights_after_loading", None)) and not isinstance(value, type):
            vars(method)[name] = _shallow(value)
    twin.quant_method = method
    return twin


def _shallow(value: Any) -> Any:
    twin = copy.copy(value)
    if isinstance(value, torch.nn.Module):
        for name in ("_parameters", "_buffers", "_modules"):
            twin.__dict__[name] = dict(value.__dict__[name])
    return twin


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    # As vLLM does it: a parameter's class and attributes belong to its form.
    found = torch.empty_strided(tuple(tensor.size()), tensor.stride(), dtype=tensor.dtype, device="meta")
    found.__class__ = tensor.__class__
    found.__dict__ = tensor.__dict__.copy()
    return found


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())


class _AlteredError(Exception):
    """The processing does more than to keep the parameters."""


class _Processing(TorchDispatchMode):
    """Stops at the first operation that writes to memory which the processing has not made, or computes with a parameter."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in written_by(func, args, kwargs):
            if tensor.numel() and not self._is_made(tensor):
                raise _AlteredError(f"it writes to a tensor of the layer: {func}")
        result = func(*args, **kwargs)
        reads = any(self._is_parameter(leaf) for leaf in tree_leaves((args, kwargs)))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or self._is_parameter(leaf) or leaf.layout != torch.strided:
                continue
            if reads and leaf.numel() and func.overloadpacket.__name__ not in VALUELESS:
                raise _AlteredError(f"it computes with a parameter: {func}")
            if not func.is_view:
                storage = leaf.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage)
        return result

    def _is_parameter(self, value: Any) -> bool:
        return (
            isinstance(value, torch.Tensor)
            and value.layout == torch.strided
            and value.untyped_storage()._cdata in self._parameters
        )

    def _is_made(self, tensor: torch.Tensor) -> bool:
        found = self._made.get(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else None
        return found is not None and not found.expired()
