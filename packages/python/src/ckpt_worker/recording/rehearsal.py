"""Learns a loader's copies without data: it is given tensors that have a shape and no bytes, and writes nothing.

The tensors are on torch's meta device, all in one storage, so that their place in it says which tensor a view belongs to. A
loader that reads values cannot be rehearsed: torch has none to give it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ..loading.torch_dtypes import from_bytes
from ..protocol.dtypes import tensor_bytes
from .operations import written_by
from .regions import Extent, extent_of
from .tracer import Tracer
from .watched import here, threads

_aten: Final = torch.ops.aten
#: Distance between tensors, in bytes: a multiple of every element size.
_ALIGNMENT: Final = 64

#: Name, dtype and shape of a tensor.
Described = tuple[str, str, list[int]]


class Rehearsal(Tracer):
    """Record of a loader's copies of tensors that have no data. Nothing that existed before is written to, as far as torch is
    told to in this thread and in those that the loader starts.
    """

    rehearsed = True

    def __init__(self, tensors: Sequence[Described], before: frozenset[str] = frozenset()) -> None:
        """:raises ValueError: for two tensors of one name, or for a dtype that is not known."""
        super().__init__(before)
        self._named: list[tuple[str, torch.Tensor]] = []
        extents: list[Extent] = []
        end = 0
        for name, dtype, shape in tensors:
            size = tensor_bytes(dtype, shape)
            if size:
                extents.append(Extent(end, end + size, name))
            if name in self.tensors:
                raise ValueError(f"there are two tensors {name!r}")
            self.tensors[name] = (dtype, list(shape))
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._whole = torch.empty(end, dtype=torch.uint8, device="meta")
        self._storage = self._whole.untyped_storage()._cdata
        self._extents = extents
        self._end = end
        starts = {extent.name: extent.start for extent in extents}
        for name, (dtype, shape) in self.tensors.items():
            self._named.append((name, self._tensor(dtype, shape, starts.get(name, 0))))
        #: Memory that the loader itself has made.
        self._made: dict[int, StorageWeakRef] = {}

    @contextlib.contextmanager
    def loads(self) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Yields the tensors for the loader; whatever it does inside the block, in its threads too, is noted and not done."""
        self._open = True
        try:
            with no_addresses(), threads.followed(self):
                yield self._named
        finally:
            self._open = False

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Rehearses the operations of this thread inside the block."""
        with _Rehearsed(self):
            yield

    def do(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Handles one operation; returns its result."""
        if not self.active or here.own:
            return func(*args, **kwargs)
        if func is _aten.copy_.default and self._in_ring(args[1]) and not self._is_made(args[0]):
            with self._lock:
                self._note_stray()
                self._copy(args[0], args[1])
            return args[0]
        if func is _aten._to_copy.default and self._in_ring(args[0]) and _moves(args[0], kwargs):
            return _aten.alias.default(args[0])
        if func is _aten._local_scalar_dense.default and self._touches(args[0]):
            raise ValueReadError(f"the loader looks at values of {min(self._touches(args[0]))!r}")
        if func._schema.is_mutable:
            return self._mutate(func, args, kwargs)
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        with self._lock:
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    self._made[storage._cdata] = StorageWeakRef(storage)
            self._saw(func, args, kwargs, result, True)
        return result

    def _mutate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        written = list(written_by(func, args, kwargs))
        if torch.Tag.inplace_view in func.tags and all(tensor.is_meta for tensor in written):
            return func(*args, **kwargs)  # the shape alone changes
        if all(self._is_made(tensor) for tensor in written):
            result = func(*args, **kwargs)
        else:
            returns = func._schema.returns
            if len(returns) > 1 or (returns and (returns[0].alias_info is None or not returns[0].alias_info.is_write)):
                raise ValueReadError(f"the loader uses {func}, whose result is not known without doing it")
            result = written[0] if returns and len(written) == 1 else (written if returns else None)
        with self._lock:
            self._saw(func, args, kwargs, result, True)
        return result

    def _touches(self, tensor: torch.Tensor) -> set[str]:
        return self._names(tensor) if self._in_ring(tensor) else set(self._origins.computed(tensor))

    def _is_made(self, tensor: torch.Tensor) -> bool:
        if tensor.layout != torch.strided:
            return False
        known = self._made.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def _in_ring(self, tensor: Any) -> bool:
        return (
            isinstance(tensor, torch.Tensor)
            and tensor.device.type == "meta"
            and tensor.numel() > 0
            and tensor.untyped_storage()._cdata == self._storage
        )

    def _position(self, tensor: torch.Tensor) -> int:
        return int(tensor.storage_offset()) * tensor.element_size()

    def _digest(self, source: torch.Tensor) -> torch.Tensor:
        return _NONE

    def _away(self, destination: torch.Tensor, source: torch.Tensor) -> bool:
        return False  # the tensors of an update are on the parameters' device

    def _key(self, tensor: torch.Tensor) -> int | None:
        # The results of computations with the tensors have no data either: they are known by their storage.
        return None if tensor.layout != torch.strided else int(tensor.untyped_storage()._cdata)

    def _tensor(self, dtype: str, shape: list[int], start: int) -> torch.Tensor:
        return from_bytes(self._whole[start : start + tensor_bytes(dtype, shape)], dtype, shape)


class ValueReadError(Exception):
    """The loader needs something that a rehearsal does not have."""


class _Pointers:
    """Refuses addresses of tensors without memory: a loader that copies by address would read from address 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                torch.Tensor.data_ptr = _data_ptr  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    del torch.Tensor.data_ptr


def _data_ptr(tensor: torch.Tensor) -> int:
    if tensor.is_meta:
        raise ValueReadError("the loader asks for a tensor's address")
    return torch._C.TensorBase.data_ptr(tensor)


_pointers: Final = _Pointers()


def no_addresses() -> contextlib.AbstractContextManager[None]:
    """Refuses addresses of tensors without memory inside the block, in all threads."""
    return _pointers.refused()


class _Rehearsed(TorchDispatchMode):
    def __init__(self, rehearsal: Rehearsal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rehearsal = rehearsal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._rehearsal.do(func, args, kwargs or {})


#: Stands for digests, because there are no bytes.
_NONE: Final = torch.zeros((), dtype=torch.int64)


def _moves(source: torch.Tensor, kwargs: Mapping[str, Any]) -> bool:
    """Returns True if a conversion changes nothing but the device."""
    memory = kwargs.get("memory_format")
    return kwargs.get("dtype") in (None, source.dtype) and memory in (None, torch.preserve_format)


def unreached(rehearsal: Rehearsal, parameters: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns names of parameters of which the loader leaves elements alone, as far as it could be seen."""
    # A copy made twice reaches no more: what is counted is where it goes.
    made = {(copied.address, region.destination, region.size) for copied in rehearsal.copies for _, region in copied.parts}
    copies: dict[int, list[tuple[int, int]]] = {}
    for address, destination, size in made:
        copies.setdefault(address, []).append((address + destination, size))
    found = []
    for name, tensor in parameters.items():
        if tensor.numel() == 0:
            continue
        start, end = extent_of(tensor)
        inside = copies.get(tensor.untyped_storage().data_ptr(), ())
        reached = sum(size for at, size in inside if start <= at < end)
        reached += sum(max(0, min(end, write.end) - max(start, write.start)) for write in rehearsal.writes)
        if reached < tensor.numel() * tensor.element_size():
            found.append(name)
    return found
