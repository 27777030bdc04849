"""Watches every tensor operation of a loader: copies out of the ring, computations, and other writes."""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..loading.digest import digest_tensor
from ..protocol.messages import TensorEntry
from .casts import CAST, Cast, SeenCast, can_cast
from .contents import Contents
from .operations import VALUELESS, changes, written_by
from .origins import Origins
from .recording import Twins
from .regions import Extent, extent_of, parts, region_of, span_of
from .seen import Copied, Written
from .watched import EXITS, MEMORY, VALUES, Forks, Watched, here, plain, threads

_aten: Final = torch.ops.aten


class Tracer:
    """Record of the loads of one update, in all participating threads."""

    #: True if nothing was loaded: there are no bytes to compare.
    rehearsed: ClassVar[bool] = False

    def __init__(self, before: frozenset[str] = frozenset()) -> None:
        """:param before: names of the existing parameters."""
        self.before = before
        #: Kept until the update is recorded.
        self.active = True
        #: The parameters' bytes before the first load.
        self.contents: Contents | None = None
        #: Parameters that had changed after the last load, without a copy or write that was seen.
        self.unexplained: list[str] = []
        #: Tensors whose bytes left torch: they may have been written anywhere.
        self.escaped: set[str] = set()
        #: Tensors whose memory was requested.
        self.held: set[str] = set()
        #: Ranges written while watching was off: first byte and the byte after the last, as addresses.
        self.set_aside: list[tuple[int, int]] = []
        #: Tensors that the engine ties.
        self.twins: list[Twins] = []
        #: Reason why nothing that was seen can be trusted.
        self.refusal: str | None = None
        self._forks = Forks.count
        #: In order of arrival: name, dtype, shape.
        self.tensors: dict[str, tuple[str, list[int]]] = {}
        self.copies: list[Copied] = []
        self.writes: list[Written] = []
        #: Reason why a tensor is opaque; the first one applies.
        self.opaque: dict[str, str] = {}
        #: Copies that change the element type; and tensors that are opaque for other reasons too.
        self.casts: list[SeenCast] = []
        self.computed: set[str] = set()
        self._origins = Origins(self._key)
        self._guided: str | None = None
        self._base = self._end = 0
        self._extents: list[Extent] = []
        self._open = False
        self._lock = threading.RLock()

    @property
    def forked(self) -> bool:
        """True if this process was forked while the update was loaded."""
        return Forks.count != self._forks

    @contextlib.contextmanager
    def watch(
        self, ring: torch.Tensor, entries: Sequence[TensorEntry], named: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Watches operations inside the block, including threads that the loader starts.

        :param ring: the ring's bytes.
        :param named: the tensors of the bucket, one per entry.
        :returns: tensors for the loader in place of them.
        """
        given: list[tuple[str, torch.Tensor]] = []
        with self._lock:
            self._base = ring.data_ptr()
            self._end = self._base + ring.numel()
            self._extents = sorted(Extent(e.offset, e.offset + e.size, e.name) for e in entries if e.size)
            for entry, (name, tensor) in zip(entries, named, strict=True):
                if name in self.tensors:
                    self._mark(name, "the update brought it twice")
                self.tensors[name] = (entry.dtype, list(entry.shape))
                over = self._in_ring(tensor)
                if tensor.numel() and not over:
                    self._mark(name, "it does not lie in the ring as its element type needs it")
                given.append((name, Watched.over(tensor, self) if over else tensor))
            self._open = True
        try:
            with threads.followed(self):
                yield given
        finally:
            self._open = False

    def hold_against(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """After the last load: finds parameters that changed without a copy or a write that was seen."""
        contents = self.contents
        if contents is None:
            return
        for copied in self.copies:
            if not copied.storage.expired():
                for _, region in copied.parts:
                    contents.explain_region(copied.address, region)
        for write in self.writes:
            contents.explain(write.start, write.end)
        for start, end in self.set_aside:
            contents.explain(start, end)
        self.unexplained = contents.changed(parameters)
        self.contents = None

    def close(self) -> None:
        """Ends watching."""
        self.active = False

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Watches operations of this thread inside the block."""
        before, here.observer = here.observer, self
        try:
            with _Functions(self), _Operations(self):
                yield
        finally:
            here.observer = before

    def demand_same(self, first: str, second: str, parameter: str) -> None:
        """Requires equal bytes of two tensors in each update, although the loader need not use both."""
        with self._lock:
            self.twins.append(Twins(first, second, parameter))
            self._mark(first, f"it is compared with {second!r}, which is tied to it")
            self._mark(second, f"it is compared with {first!r}, which is tied to it")

    @contextlib.contextmanager
    def aside(self, reason: str, *values: Any) -> Iterator[None]:
        """Does not watch operations inside the block; tensors passed to them are opaque.

        For parts of an engine that are known to compute. They must not write to a parameter that tensors are copied to
        unchanged: checking the recording would find such a copy changed.

        :param values: everything that the block may read of the ring, or of values made from it.
        """
        here.aside += 1
        try:
            with self._lock, torch._C.DisableTorchFunction():
                for tensor in tree_leaves(plain(values)):
                    if isinstance(tensor, torch.Tensor) and tensor.numel():
                        for name in self._names(tensor) if self._in_ring(tensor) else self._origins.computed(tensor):
                            self._mark(name, reason)
            yield
        finally:
            here.aside -= 1

    def saw(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any, *, watched: bool) -> None:
        """Handles one operation, after it was done."""
        if not self.active or here.own:
            return
        args, kwargs, result = plain((args, kwargs, result))
        with self._lock, torch._C.DisableTorchFunction():
            self._saw(func, args, kwargs, result, watched)

    def _saw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, watched: bool) -> None:
        name = func.overloadpacket.__name__
        if watched and here.aside:
            self.set_aside += [extent_of(t) for t in written_by(func, args, kwargs) if t.numel() and _has_memory(t)]
            return
        if name in VALUELESS:
            if not watched and name == "set_":
                self._escape(set().union(*(self._names(t) for t in _tensors(args) if self._in_ring(t))), "Tensor.set_")
            return
        if func is _aten.copy_.default and self._in_ring(args[1]):
            self._note_stray()
            self._copy(args[0], args[1])
            return
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.numel()]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        written = list(written_by(func, args, kwargs))
        reading = [tensor for tensor in inputs if self._in_ring(tensor)]
        if reading and outputs and not written and all(self._in_ring(tensor) or not tensor.numel() for tensor in outputs):
            return  # views
        if reading:
            self._note_stray()
        names: set[str] = set()
        for tensor in reading:
            names |= self._names(tensor)
        for one in names:
            self._mark(one, f"it is computed with: {func}")
        if not func.is_view:
            # Whoever reads a parameter may write it elsewhere. One that is only written to is no input.
            for tensor in inputs:
                if not any(tensor is other for other in written):
                    for one in self._origins.copied(tensor):
                        self._mark(one, f"the memory that it was copied to is read: {func}")
        for tensor in inputs:
            names |= self._origins.computed(tensor)
        derived = frozenset(names)
        if not func.is_view:
            self.computed |= derived
        # In an unwatched thread the further use of the result is not seen.
        if derived and (not watched or not outputs or torch.Tag.dynamic_output_shape in func.tags):
            self._guided = self._guided or min(derived)
        for tensor in outputs:
            if derived and tensor.numel() and not self._in_ring(tensor):
                self._origins.compute(tensor, derived)
        for tensor in written:
            self._write(tensor, derived, str(func))

    def left(self, func: Callable[..., Any], tensors: list[torch.Tensor], *, watched: bool) -> None:
        """Handles a call that may let the bytes of tensors out of torch, or access their memory."""
        if not self.active or here.own or (watched and here.aside):
            return
        with self._lock, torch._C.DisableTorchFunction():
            names: set[str] = set()
            for tensor in tensors:
                if tensor.numel() and _has_memory(tensor):
                    names |= self._names(tensor) if self._in_ring(tensor) else self._inside(tensor, func)
            if func in MEMORY and watched:
                self.held |= names
            else:
                self._escape(names, getattr(func, "__name__", str(func)))

    def over_ring(self, tensor: torch.Tensor) -> bool:
        """Returns True for a tensor over the ring."""
        with torch._C.DisableTorchFunction():
            return self._in_ring(tensor)

    def _escape(self, names: set[str], what: str) -> None:
        for name in names:
            self._mark(name, f"its bytes are read outside torch: {what}")
        self.escaped |= names
        if names:
            self._guided = self._guided or min(names)

    def _note_stray(self) -> None:
        if not self._open:
            self.refusal = "a thread of the loader used a bucket's tensors after the loader had returned"

    def _copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        if destination.numel() == 0:
            return
        names = self._names(source)
        reason = self._not_bytewise(destination, source)
        if reason is not None:
            cast = self._cast(destination, source)
            for name in names:
                self.opaque.setdefault(name, reason)
            if not cast:
                self.computed |= names
            self._write(destination, frozenset(names), CAST if cast else "aten.copy_.default")
            return
        source = source.expand(destination.shape)
        storage = destination.untyped_storage()
        region = region_of(destination, source, self._position(source), destination.data_ptr() - storage.data_ptr())
        found = list(parts(region, self._extents))
        if any(extent is None for extent, _ in found):
            for name in names:
                self._mark(name, "bytes beside it are copied with it")
            self._write(destination, frozenset(names), "aten.copy_.default")
            return
        self._origins.copy(destination, names)
        self.copies.append(
            Copied(
                [(extent.name, part) for extent, part in found if extent is not None],
                StorageWeakRef(storage),
                storage.data_ptr(),
                tuple(destination.shape),
                tuple(destination.stride()),
                int(destination.storage_offset()),
                destination.dtype,
                self._digest(source),
                self._guided,
            )
        )

    def _cast(self, destination: torch.Tensor, source: torch.Tensor) -> bool:
        """Notes a copy that converts elements of one tensor; returns False if it is no such copy."""
        if not can_cast(destination, source) or self._away(destination, source):
            return False
        start, size = self._position(source), source.element_size()
        extent = self._extents[bisect.bisect_right(self._extents, start, key=lambda one: one.start) - 1]
        if not extent.start <= start <= start + span_of(source) <= extent.end or (start - extent.start) % size:
            return False
        storage = destination.untyped_storage()
        at = (start - extent.start) // size * destination.element_size()
        region = region_of(destination, source.expand(destination.shape), at, destination.data_ptr() - storage.data_ptr())
        cast = Cast(extent.name, destination.dtype, storage.data_ptr(), region)
        self.casts.append(SeenCast(cast, StorageWeakRef(storage), self._guided is not None))
        return True

    def _write(self, tensor: torch.Tensor, names: frozenset[str], operation: str) -> None:
        if tensor.numel() == 0:
            return
        if names:
            self._origins.compute(tensor, names)
        if tensor.device.type != "meta":
            self.writes.append(Written(StorageWeakRef(tensor.untyped_storage()), *extent_of(tensor), names, operation))

    def _mark(self, name: str, reason: str) -> None:
        self.opaque.setdefault(name, reason)
        self.computed.add(name)

    def _in_ring(self, tensor: Any) -> bool:
        if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta" or tensor.layout != torch.strided:
            return False
        return tensor.numel() > 0 and self._base <= tensor.data_ptr() < self._end

    def _names(self, tensor: torch.Tensor) -> set[str]:
        """Returns tensors that a tensor over the ring may read."""
        start = self._position(tensor)
        end = start + span_of(tensor)
        first = bisect.bisect_right(self._extents, start, key=lambda extent: extent.start) - 1
        names = set()
        for extent in self._extents[max(first, 0) :]:
            if extent.start >= end:
                break
            if extent.end > start:
                names.add(extent.name)
        return names

    def _inside(self, tensor: torch.Tensor, func: Callable[..., Any]) -> frozenset[str]:
        """Returns tensors of the ring whose values a call on another one may let out."""
        computed = self._origins.computed(tensor)
        return computed | self._origins.copied(tensor) if func in VALUES else computed

    # Overridden where the tensors have no memory.

    def _position(self, tensor: torch.Tensor) -> int:
        """Returns the place of a tensor over the ring, in bytes from its start."""
        return tensor.data_ptr() - self._base

    def _digest(self, source: torch.Tensor) -> torch.Tensor:
        return digest_tensor(source.contiguous())

    def _key(self, tensor: torch.Tensor) -> int | None:
        """Returns a name for a tensor's memory; None if it has none."""
        return tensor.untyped_storage().data_ptr() if _has_memory(tensor) else None

    def _not_bytewise(self, destination: torch.Tensor, source: torch.Tensor) -> str | None:
        """Returns the reason why copying is more than moving bytes."""
        return f"it is copied to {destination.device}" if self._away(destination, source) else changes(destination, source)

    def _away(self, destination: torch.Tensor, source: torch.Tensor) -> bool:
        """Returns True if the copy goes to another device."""
        return destination.device != source.device


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "meta" and tensor.layout == torch.strided


class _Operations(TorchDispatchMode):
    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._tracer.saw(func, args, kwargs, result, watched=True)
        return result


class _Functions(TorchFunctionMode):
    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Watched tensors report this themselves.
        if func in EXITS and args and isinstance(args[0], torch.Tensor) and not isinstance(args[0], Watched):
            self._tracer.left(func, [args[0]], watched=True)
        return func(*args, **(kwargs or {}))
