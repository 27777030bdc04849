"""An engine's parameters: created from the first checkpoint's shapes, written in place by every later one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch

from ckpt_worker.errors import LayoutError
from ckpt_worker.loading.copies import Copy, CopyPlan
from ckpt_worker.loading.digest import flat_bytes

from .layout import Placement, Slice, place

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: Odd, so that adding it to a byte changes it every time, and only 256 additions restore it.
_POISON: Final = 0x5B


@dataclass(frozen=True)
class _Home:
    """Place of a known tensor of the checkpoint: ``view`` is in its parameter."""

    dtype: torch.dtype
    shape: list[int]
    kept: Slice | None
    view: torch.Tensor
    #: Parts of the same kind: one kind of every expert, for example.
    kind: tuple[str, int]


@dataclass(frozen=True)
class _Part:
    """A tensor seen for the first time, with the part that this rank keeps."""

    name: str
    shape: list[int]
    kept: Slice | None
    tensor: torch.Tensor

    @property
    def rows(self) -> int:
        return self.tensor.shape[0] if self.tensor.dim() else 1


#: Name, dtype, shape, strides and offset of a tensor in its storage, in elements.
_Source = tuple[str, torch.dtype, torch.Size, tuple[int, ...], int]

#: Parts of a parameter that is not created yet: by expert (None if none are stacked), then by order.
_Group = dict[int | None, dict[int, _Part]]


class Parameters:
    """Parameters of one tensor-parallel rank. Not safe for use by several threads at once."""

    def __init__(self, tp_rank: int, tp_size: int, device: torch.device) -> None:
        if not 0 <= tp_rank < tp_size:
            raise ValueError(f"tp rank {tp_rank} is not among {tp_size}")
        self._tp_rank, self._tp_size = tp_rank, tp_size
        self._device = device
        self._tensors: dict[str, torch.Tensor] = {}
        self._homes: dict[str, _Home] = {}
        self._groups: dict[str, _Group] = {}
        # Prepared copies of whole batches, by the name of the first tensor.
        self._plans: dict[str, tuple[list[_Source], CopyPlan]] = {}

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The parameters by name; their addresses never change."""
        return MappingProxyType(self._tensors)

    def place(self, name: str, shape: list[int]) -> Placement:
        """Returns the placement of a tensor on this rank."""
        return place(name, shape, self._tp_rank, self._tp_size)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copies the parts of each tensor that this rank keeps. Tensors seen for the first time wait for :meth:`finish`.

        :raises LayoutError: for a tensor that does not match the existing parameters.
        """
        batch = list(tensors)
        known = [(name, tensor) for name, tensor in batch if name in self._homes]
        if len(known) < len(batch):
            for name, tensor in batch:
                if name not in self._homes:
                    self._collect(name, tensor)
        if not known:
            return
        sources = _sources(known, self._device)
        if sources is None:
            for name, tensor in known:
                home = self._fitting(name, tensor.dtype, tensor.shape)
                _copy(home.view, _keep(tensor, home.kept))
            return
        first, any_tensor = known[0]
        cached = self._plans.get(first)
        if cached is None or cached[0] != sources:
            cached = (sources, CopyPlan(self._copies(sources)))
            self._plans[first] = cached
        cached[1].run(any_tensor)

    def _fitting(self, name: str, dtype: torch.dtype, shape: Iterable[int]) -> _Home:
        home = self._homes[name]
        if home.dtype != dtype or home.shape != list(shape):
            came, had = f"{dtype} {list(shape)}", f"{home.dtype} {home.shape}"
            raise LayoutError(f"tensor {name!r} arrived as {came}, but the engine was created for {had}", tensor=name)
        return home

    def _copies(self, sources: list[_Source]) -> Iterator[Copy]:
        for name, dtype, shape, stride, start in sources:
            home = self._fitting(name, dtype, shape)
            if home.kept is not None:
                start += home.kept.start * stride[home.kept.dim]
            size = dtype.itemsize
            whole = (0,) * (home.view.dim() - len(stride))  # a scalar becomes a row of one
            yield Copy(home.kind, home.view, start * size, (*whole, *(step * size for step in stride)))

    def finish(self) -> None:
        """Creates the parameters of the tensors seen for the first time.

        :raises LayoutError: if the parts of a parameter do not fit together.
        """
        if not self._groups:
            return
        for parameter in list(self._groups):
            self._fuse(parameter, self._groups[parameter])
            del self._groups[parameter]
        if self._device.type == "cuda":
            # Memory of the parts has no size that will be needed again.
            torch.cuda.empty_cache()

    def discard(self) -> None:
        """Forgets tensors that wait for :meth:`finish`."""
        self._groups.clear()

    def poison(self) -> None:
        """Changes every byte of every parameter."""
        for tensor in self._tensors.values():
            flat_bytes(tensor).add_(_POISON)

    def _collect(self, name: str, tensor: torch.Tensor) -> None:
        placement = self.place(name, list(tensor.shape))
        parameter = placement.parameter
        if parameter in self._tensors:
            raise LayoutError(f"tensor {name!r} is new in parameter {parameter!r}, which already exists", tensor=name)
        parts = self._groups.setdefault(parameter, {}).setdefault(placement.expert, {})
        other = parts.get(placement.order)
        if other is not None and other.name != name:
            raise LayoutError(f"tensors {other.name!r} and {name!r} are the same part of {parameter!r}", tensor=name)
        kept = _keep(tensor, placement.kept)
        copy = torch.empty(kept.shape, dtype=kept.dtype, device=self._device)
        _copy(copy, kept)
        parts[placement.order] = _Part(name, list(tensor.shape), placement.kept, copy)

    def _fuse(self, parameter: str, group: _Group) -> None:
        experts = sorted(group, key=lambda expert: -1 if expert is None else expert)
        columns = [[group[expert][order] for order in sorted(group[expert])] for expert in experts]
        if experts == [None] and len(columns[0]) == 1:
            self._settle(columns[0][0], columns[0][0].tensor, (parameter, 0))
            self._tensors[parameter] = columns[0][0].tensor
            return
        _check_parts(parameter, experts, group)
        first = columns[0][0].tensor
        shape = [sum(part.rows for part in columns[0]), *first.shape[1:]]
        stacked = shape if experts == [None] else [len(experts), *shape]
        storage = torch.empty(stacked, dtype=first.dtype, device=self._device)
        for index, column in enumerate(columns):
            below, row = (storage if experts == [None] else storage[index]), 0
            for order, part in enumerate(column):
                view = below.narrow(0, row, part.rows)
                _copy(view, part.tensor)
                self._settle(part, view, (parameter, order))
                row += part.rows
        self._tensors[parameter] = storage

    def _settle(self, part: _Part, view: torch.Tensor, kind: tuple[str, int]) -> None:
        self._homes[part.name] = _Home(part.tensor.dtype, part.shape, part.kept, view, kind)


def _sources(batch: list[tuple[str, torch.Tensor]], device: torch.device) -> list[_Source] | None:
    """Positions of the tensors in their one storage; None if they are in several, or on a different device."""
    first = batch[0][1]
    if first.device != device:
        return None
    storage = first.untyped_storage().data_ptr()
    sources: list[_Source] = []
    for name, tensor in batch:
        if tensor.untyped_storage().data_ptr() != storage:
            return None
        sources.append((name, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset())))
    return sources


def _check_parts(parameter: str, experts: list[int | None], group: _Group) -> None:
    """Stacked parts agree in everything except rows; stacked experts agree in everything."""
    first = next(iter(group[experts[0]].values())).tensor
    rows = {order: part.rows for order, part in group[experts[0]].items()}
    for expert in experts:
        for part in group[expert].values():
            if part.tensor.dtype != first.dtype or part.tensor.shape[1:] != first.shape[1:]:
                came, had = f"{part.tensor.dtype} {list(part.tensor.shape)}", f"{first.dtype} {list(first.shape)}"
                raise LayoutError(
                    f"tensor {part.name!r} ({came}) does not fit into {parameter!r} beside {had}", tensor=part.name
                )
        if (expert is None) != (experts == [None]) or {order: part.rows for order, part in group[expert].items()} != rows:
            raise LayoutError(f"expert {expert} of {parameter!r} does not have the same parts as expert {experts[0]}")


def _keep(tensor: torch.Tensor, kept: Slice | None) -> torch.Tensor:
    return tensor if kept is None else tensor.narrow(kept.dim, kept.start, kept.length)


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copies bit by bit, because copying booleans or floats as such may normalise them."""
    if source.numel() == 0:
        return
    integer = _INTEGERS[source.element_size()]
    target.view(integer).copy_(source.view(integer))
