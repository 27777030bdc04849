"""An engine's parameters: made from the first checkpoint's shapes, written in place by every later one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch

from ..digest import flat_bytes
from ..errors import LayoutError
from .layout import Placement, Slice, place

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: Odd, so that adding it to a byte changes it every time, and only 256 times bring it back.
_POISON: Final = 0x5B


@dataclass(frozen=True)
class _Home:
    """Where a known tensor of the checkpoint lives: ``view`` lies in its parameter."""

    dtype: torch.dtype
    shape: list[int]
    kept: Slice | None
    view: torch.Tensor


@dataclass(frozen=True)
class _Part:
    """A tensor seen for the first time, and what this rank keeps of it."""

    name: str
    shape: list[int]
    kept: Slice | None
    tensor: torch.Tensor

    @property
    def rows(self) -> int:
        return self.tensor.shape[0] if self.tensor.dim() else 1


#: Parts of a parameter that is not made yet: by expert (None where none are stacked), then by order.
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

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The parameters by name; their addresses never change."""
        return MappingProxyType(self._tensors)

    def place(self, name: str, shape: list[int]) -> Placement:
        """The placement of a tensor on this rank."""
        return place(name, shape, self._tp_rank, self._tp_size)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copies what this rank keeps of each tensor. Tensors seen for the first time wait for :meth:`finish`.

        :raises LayoutError: for a tensor that does not fit the parameters there are.
        """
        for name, tensor in tensors:
            home = self._homes.get(name)
            if home is None:
                self._collect(name, tensor)
                continue
            if home.dtype != tensor.dtype or home.shape != list(tensor.shape):
                came, had = f"{tensor.dtype} {list(tensor.shape)}", f"{home.dtype} {home.shape}"
                raise LayoutError(f"tensor {name!r} came as {came}, the engine was made for {had}", tensor=name)
            _copy(home.view, _keep(tensor, home.kept))

    def finish(self) -> None:
        """Makes the parameters of the tensors seen for the first time.

        :raises LayoutError: where the parts of a parameter do not fit together.
        """
        for parameter in list(self._groups):
            self._fuse(parameter, self._groups[parameter])
            del self._groups[parameter]

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
            raise LayoutError(f"tensor {name!r} is new to parameter {parameter!r}, which is made already", tensor=name)
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
            self._settle(columns[0][0], columns[0][0].tensor)
            self._tensors[parameter] = columns[0][0].tensor
            return
        _check_parts(parameter, experts, group)
        first = columns[0][0].tensor
        shape = [sum(part.rows for part in columns[0]), *first.shape[1:]]
        stacked = shape if experts == [None] else [len(experts), *shape]
        storage = torch.empty(stacked, dtype=first.dtype, device=self._device)
        for index, column in enumerate(columns):
            below, row = (storage if experts == [None] else storage[index]), 0
            for part in column:
                view = below.narrow(0, row, part.rows)
                _copy(view, part.tensor)
                self._settle(part, view)
                row += part.rows
        self._tensors[parameter] = storage

    def _settle(self, part: _Part, view: torch.Tensor) -> None:
        self._homes[part.name] = _Home(part.tensor.dtype, part.shape, part.kept, view)


def _check_parts(parameter: str, experts: list[int | None], group: _Group) -> None:
    """Parts below one another agree in all but rows; stacked experts agree in everything."""
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
    """Bit by bit: copying booleans or floats as such may normalise them."""
    if source.numel() == 0:
        return
    integer = _INTEGERS[source.element_size()]
    target.view(integer).copy_(source.view(integer))
