"""Trainers' dictionaries: every kind of tensor in every kind of view gives the bytes that torch reads, or is refused."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from ckpt_worker.errors import LayoutError
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES
from ckpt_worker.protocol.dtypes import tensor_bytes
from ckpt_worker.trainer import publish
from test_trainer import published_bytes, shared_names

KINDS = sorted(DTYPE_NAMES, key=str)
View = Callable[[torch.Tensor], torch.Tensor]


def filled(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    """Random bytes as a contiguous tensor; bool contains only 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    count = 1
    for length in shape:
        count *= length
    if dtype == torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).to(torch.bool).reshape(shape)
    data = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


#: Views that every dtype supports; each takes a tensor of three dimensions of at least 2.
VIEWS: dict[str, View] = {
    "whole": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2),
    "sliced": lambda t: t[1:, :, 1:],
    "stepped": lambda t: t[:, ::2],
    "scalar": lambda t: t[1, 1, 1],
    "row": lambda t: t[1],
    "expanded": lambda t: t[:1].expand(3, *t.shape[1:]),
    "empty": lambda t: t[:, :0],
    "overlapping": lambda t: torch.as_strided(t, (3, 2), (1, 1), 1),
    "odd stride of one": lambda t: torch.as_strided(t, (1, 3), (1000, 1)),
    "parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "buffer": lambda t: torch.nn.Buffer(t) if hasattr(torch.nn, "Buffer") else t,
}


def element_bytes(tensor: torch.Tensor) -> bytes:
    """The elements one by one, each read by its own index, independent of the view's memory layout."""
    whole = tensor.detach()
    if whole.dtype.itemsize == 1 and not whole.is_complex():
        whole = whole.view(torch.uint8)
    numbers: list[bytes] = []
    for index in numpy.ndindex(*whole.shape):
        element = whole[index].clone().resolve_conj().resolve_neg()
        numbers.append(bytes(element.reshape(1).view(torch.uint8).tolist()))
    return b"".join(numbers)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_view_of_every_dtype_gives_the_bytes_that_torch_reads(dtype: torch.dtype) -> None:
    rng = random.Random(str(dtype))
    dictionary: dict[str, torch.Tensor] = {}
    for name, view in VIEWS.items():
        shape = [rng.randint(2, 4) for _ in range(3)]
        dictionary[name] = view(filled(dtype, shape, rng.randrange(1 << 30)))
    tied = filled(dtype, [4, 4, 4], 1)
    dictionary |= {"tied": tied, "tied again": tied, "part of it": tied[2:]}
    if dtype == torch.complex64:
        base = torch.view_as_complex(torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(2)))
        dictionary |= {"conjugate": base.conj(), "conjugate part": base.conj()[1:, ::2], "twice": base.conj().conj()}
    if dtype in {torch.float32, torch.float64}:
        pairs = torch.randn(4, 5, 2, dtype=dtype, generator=torch.Generator().manual_seed(3))
        base = torch.view_as_complex(pairs)
        dictionary |= {"negated": torch._neg_view(pairs), "imaginary": base.conj().imag, "real": base.conj().real}
    with publish(dictionary, make_contiguous=True) as publication:
        assert not publication.skipped
        for published in publication.tensors:
            tensor = dictionary[published.name]
            assert published.dtype == DTYPE_NAMES[dtype], published.name
            assert published.shape == list(tensor.shape), published.name
            assert published_bytes(publication, published.name) == element_bytes(tensor), published.name
        assert {published.name for published in publication.tensors} == set(dictionary)
    # If copying is not allowed, only tensors that are not contiguous are refused, by name.
    for name, tensor in dictionary.items():
        # Resolving a view's bits already is a copy.
        if tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            publish({name: tensor}).close()
            continue
        with pytest.raises(LayoutError, match="make_contiguous=True") as caught:
            publish({"fine": torch.ones(2), name: tensor}).close()
        assert caught.value.tensor == name
    assert shared_names() == set()


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no float4_e2m1fn_x2")
@pytest.mark.parametrize("shape", [[2, 4], [3], [1, 1, 5], [0, 4], []], ids=str)
def test_packed_float4_counts_its_values(shape: list[int]) -> None:
    data = torch.randint(0, 256, shape or [1], dtype=torch.uint8)
    tensor = data.view(torch.float4_e2m1fn_x2).reshape(shape)
    with publish({"w": tensor}) as publication:
        (published,) = publication.tensors
        assert published.dtype == "F4"
        assert published.shape == ([*shape[:-1], shape[-1] * 2] if shape else [2])
        assert published.size == tensor_bytes("F4", published.shape) == data.numel()
        assert published_bytes(publication, "w") == bytes(data.reshape(-1).tolist())
    if len(shape) == 2 and shape[0]:
        turned = data.t().view(torch.uint8).contiguous().t().view(torch.float4_e2m1fn_x2)
        with publish({"w": turned}, make_contiguous=True) as publication:
            assert published_bytes(publication, "w") == bytes(turned.view(torch.uint8).contiguous().reshape(-1).tolist())


class Wrapper(torch.Tensor):
    """As in quantization libraries: dtype and shape of the whole, with the data in other tensors."""

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)
        return made

    def __init__(self, data: torch.Tensor) -> None:
        self.data_of_it = data

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].data_of_it)
        plain = [arg.data_of_it.float() if isinstance(arg, Wrapper) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


class Named(torch.Tensor):
    """A class that only observes functions and has its own data."""


def freed(storage_bytes: int) -> torch.Tensor:
    tensor = torch.ones(16, 16)
    tensor.untyped_storage().resize_(storage_bytes)
    return tensor


def sharded() -> torch.Tensor:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not dist.is_initialized():
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    return DTensor.from_local(torch.arange(12.0).reshape(2, 6), init_device_mesh("cpu", (2,)), [Shard(0)])


def fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "list": (lambda: [1.0, 2.0], r"is a list and not a tensor"),
    "number": (lambda: 3, r"is a int and not a tensor"),
    "text": (lambda: "w", r"is a str and not a tensor"),
    "bytes": (lambda: io.BytesIO(b"x"), r"is a BytesIO and not a tensor"),
    "array": (lambda: numpy.ones(3), r"is a ndarray and not a tensor"),
    "dictionary": (lambda: {"w": torch.ones(2)}, r"is a dict and not a tensor"),
    "sparse": (lambda: torch.eye(3).to_sparse(), r"to_dense"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), r"to_dense"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), r"int_repr|dequantize"),
    "meta": (lambda: torch.empty(3, device="meta"), r"meta device"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), r"unbind|wrapper"),
    "wrapper": (lambda: Wrapper(torch.ones(4, dtype=torch.int8)), r"Wrapper, a wrapper"),
    "fake": (fake, r"FakeTensor, a wrapper"),
    "uninitialized": (lambda: torch.nn.LazyLinear(3).weight, r"no data yet"),
    "sharded": (sharded, r"DTensor.*Shard.*full_tensor"),
    "complex128": (lambda: torch.ones(2, dtype=torch.complex128), r"torch\.complex128 has no safetensors name"),
    "complex32": (lambda: torch.ones(2).to(torch.complex32), r"torch\.complex32 has no safetensors name"),
    "freed": (lambda: freed(0), r"storage has 0 bytes where 1024 are needed"),
    "cut": (lambda: freed(1000), r"storage has 1000 bytes where 1024 are needed"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_tensor_is_refused_by_name_with_the_remedy(kind: str) -> None:
    make, why = REFUSED[kind]
    name = f"layers.0.{kind}"
    for make_contiguous in (False, True):
        with pytest.raises(LayoutError, match=why) as caught:
            publish({"first": torch.ones(2), name: make()}, make_contiguous=make_contiguous).close()
        assert caught.value.tensor == name
        assert repr(name) in str(caught.value)
    assert shared_names() == set()


def test_entries_without_weights_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    dictionary = {"w": torch.ones(2), "layer._extra_state": io.BytesIO(b"x"), "_extra_state": {"scale": 1}, "bias": None}
    with publish(dictionary) as publication:
        assert [tensor.name for tensor in publication.tensors] == ["w"]
        assert set(publication.skipped) == {"layer._extra_state", "_extra_state", "bias"}
    assert all(name in caplog.text for name in publication.skipped)
    with publish({"layer._extra_state": torch.zeros(0, dtype=torch.uint8)}) as publication:
        assert [tensor.name for tensor in publication.tensors] == ["layer._extra_state"]
    with publish({"watched": torch.ones(3).as_subclass(Named)}) as publication:
        assert published_bytes(publication, "watched") == element_bytes(torch.ones(3))


@pytest.mark.parametrize("key", [3, None, ("a",), "half \ud800"])
def test_keys_that_are_no_names_are_refused(key: Any) -> None:
    with pytest.raises(LayoutError, match="name"):
        publish({key: torch.ones(2)}).close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_views_on_gpus_are_resolved_before_they_are_shared() -> None:
    base = torch.view_as_complex(torch.randn(4, 2, device="cuda:0"))
    with publish({"conjugate": base.conj(), "negated": torch._neg_view(torch.ones(4, device="cuda:0"))}) as publication:
        held = {tensor.data_ptr() for tensor in publication._held}
        assert base.data_ptr() not in held
        assert not any(tensor.is_conj() or tensor.is_neg() for tensor in publication._held)
