"""Selects what can be published of a trainer's dictionary: plain tensors, with the bytes that torch reads. Everything else is
named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from ..errors import LayoutError
from ..loading.torch_dtypes import DTYPE_NAMES

#: Two values of four bits per element, the first in the low bits, as the safetensors format packs ``F4``.
_FLOAT4: Final[torch.dtype | None] = getattr(torch, "float4_e2m1fn_x2", None)
_EXTRA_STATE: Final = "_extra_state"


@dataclass(frozen=True)
class Publishable:
    """A dense, contiguous tensor whose memory holds the bytes to publish."""

    tensor: torch.Tensor
    #: By its safetensors name.
    dtype: str
    #: As counted by the safetensors format.
    shape: list[int]


def reason_to_skip(name: str, value: object) -> str | None:
    """Returns the reason why an entry that is not a tensor is left out: it holds no weights. None for every other entry."""
    if value is None:
        return "it is None"
    if not isinstance(value, torch.Tensor) and name.rpartition(".")[2] == _EXTRA_STATE:
        return f"it is a module's extra state ({type(value).__name__})"
    return None


def publishable(name: str, value: object, make_contiguous: bool) -> Publishable:
    """Returns an entry of a dictionary in its published form. Views that conjugate or negate are resolved to the bytes that
    torch reads.

    :raises LayoutError: naming the tensor, the reason why it cannot be published, and a remedy.
    """
    tensor = _plain(name, value)
    dtype = DTYPE_NAMES.get(tensor.dtype)
    shape = list(tensor.shape)
    if tensor.dtype == _FLOAT4:
        # Few of torch's kernels support it; only its bytes matter.
        tensor, dtype = tensor.view(torch.uint8), "F4"
        shape = [*shape[:-1], shape[-1] * 2] if shape else [2]
    if dtype is None:
        raise _refused(name, f"{tensor.dtype} has no safetensors name", "convert it to a dtype that has one, with tensor.to()")
    _check_storage(name, tensor)
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.is_contiguous():
        return Publishable(tensor, dtype, shape)
    if not make_contiguous:
        described = f"it is not contiguous (shape {list(tensor.shape)}, stride {list(tensor.stride())})"
        raise _refused(name, described, "pass make_contiguous=True to copy it")
    return Publishable(tensor.contiguous(), dtype, shape)


def check_name(name: object) -> str:
    """Checks a key of the dictionary. Raises LayoutError unless it is a string of whole characters."""
    if not isinstance(name, str):
        raise LayoutError(f"key {name!r} of the dictionary is a {type(name).__name__}: names of tensors are strings")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _refused(name, f"its name is not valid Unicode ({error.reason})", "rename it") from error
    return name


def _plain(name: str, value: object) -> torch.Tensor:
    """Returns the value as a tensor of torch's own class, dense and with memory on the CPU or a GPU."""
    if not isinstance(value, torch.Tensor):
        raise _refused(name, f"it is a {type(value).__name__} and not a tensor", "leave it out, or make a tensor of it")
    _check_class(name, value)
    with torch._C.DisableTorchFunctionSubclass():
        _check_kind(name, value)
        return value.detach().as_subclass(torch.Tensor)


def _check_kind(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_nested:
        raise _refused(name, "it is a nested tensor", "publish its parts, tensor.unbind(), each under a name")
    if tensor.is_quantized:
        remedy = "publish tensor.int_repr() with its scales, or tensor.dequantize()"
        raise _refused(name, f"it is a quantized tensor ({tensor.dtype})", remedy)
    if tensor.layout != torch.strided:
        raise _refused(name, f"its layout is {tensor.layout}", "publish tensor.to_dense()")
    if tensor.is_meta:
        raise _refused(name, "it is on the meta device and has no data", "load or initialise it first")
    if tensor.device.type not in {"cpu", "cuda"}:
        raise _refused(name, f"it is on {tensor.device}", "copy it to the CPU or a CUDA device first")


def _check_class(name: str, tensor: torch.Tensor) -> None:
    kind = type(tensor)
    if torch.nn.parameter.is_lazy(tensor):
        raise _refused(name, f"it is a {kind.__name__} and has no data yet", "run the model once, or load it, first")
    placements, mesh = getattr(tensor, "placements", None), getattr(tensor, "device_mesh", None)
    if placements is not None and mesh is not None:
        described = f"it is a {kind.__name__}, placed {placements} on {mesh}: this process holds a part of it"
        remedy = "publish tensor.full_tensor(), which all ranks of the mesh must call together"
        raise _refused(name, described, remedy)
    if kind.__module__.startswith("torch.distributed."):
        described = f"it is a {kind.__name__}: this process holds a part of it"
        raise _refused(name, described, "gather it first, for example with a full state dict")
    # A class that intercepts torch's operations has its data elsewhere: in memory of other tensors, or nowhere.
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        described = f"it is a {kind.__module__}.{kind.__qualname__}, a wrapper around other tensors"
        raise _refused(name, described, "publish the tensors that it holds, or its dequantized or materialised value")
    if _is_transformed(tensor):
        raise _refused(name, "it belongs to a running transformation of torch.func", "publish it outside of that")


def _is_transformed(tensor: torch.Tensor) -> bool:
    functorch: Any = getattr(torch._C, "_functorch", None)
    known = getattr(functorch, "is_functorch_wrapped_tensor", None)
    return torch._is_functional_tensor(tensor) or (known is not None and known(tensor))


def _check_storage(name: str, tensor: torch.Tensor) -> None:
    """The memory must hold what the shape requires: sharded trainers free storages and leave their tensors."""
    if tensor.numel() == 0:
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    found = tensor.untyped_storage().nbytes()
    if needed > found:
        described = (
            f"its storage has {found} bytes where {needed} are needed: it was freed or resized, as FSDP does between steps"
        )
        raise _refused(name, described, "gather the whole parameters first (FSDP.summon_full_params, or a full state dict)")


def _refused(name: str, why: str, remedy: str) -> LayoutError:
    return LayoutError(f"tensor {name!r} cannot be published: {why}; {remedy}", tensor=name)
