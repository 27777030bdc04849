"""An engine's parameters: made from the first checkpoint's shapes, written in place by every later one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass
class _Group:
    """Parts of a parameter that is not made yet, by (expert, order)."""

    parts: dict[tuple[int | None, int], tuple[str, list[int], Slice | None, torch.Tensor]] = field(default_factory=dict)


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
        if placement.parameter in self._tensors:
            raise LayoutError(
                f"tensor {name!r} is new to parameter {placement.parameter!r}, which is made already", tensor=name
            )
        group = self._groups.setdefault(placement.parameter, _Group())
        key = (placement.expert, placement.order)
        other = group.parts.get(key)
        if other is not None and other[0] != name:
            raise LayoutError(f"tensors {other[0]!r} and {name!r} are the same part of {placement.parameter!r}", tensor=name)
        kept = _keep(tensor, placement.kept)
        copy = torch.empty(kept.shape, dtype=kept.dtype, device=self._device)
        _copy(copy, kept)
        group.parts[key] = (name, list(tensor.shape), placement.kept, copy)

    def _fuse(self, parameter: str, group: _Group) -> None:
        experts = sorted({expert for expert, _ in group.parts if expert is not None})
        if experts:
            storage = self._stack(parameter, group, experts)
        elif len(group.parts) == 1:
            ((_, _, _, storage),) = group.parts.values()
        else:
            storage = self._rows(parameter, [group.parts[key][3] for key in sorted(group.parts, key=lambda key: key[1])])
        row: dict[int | None, int] = {}
        for key in sorted(group.parts, key=lambda key: key[1]):
            name, shape, kept, part = group.parts[key]
            whole = storage if key[0] is None else storage[experts.index(key[0])]
            first = row.get(key[0], 0)
            if part.dim() == 0:
                view = whole.view(-1)[first] if whole.dim() else whole
            else:
                view = whole.narrow(0, first, part.shape[0])
            row[key[0]] = first + (part.shape[0] if part.dim() else 1)
            if view.data_ptr() != part.data_ptr():
                _copy(view, part)
            self._homes[name] = _Home(part.dtype, shape, kept, view)
        self._tensors[parameter] = storage

    def _rows(self, parameter: str, parts: list[torch.Tensor], experts: int | None = None) -> torch.Tensor:
        """Memory for ``parts`` one below the other, once or once per expert."""
        first = parts[0]
        for part in parts:
            if part.dtype != first.dtype or part.shape[1:] != first.shape[1:] or part.dim() != first.dim():
                shapes = ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
                raise LayoutError(f"the parts of {parameter!r} do not fit together: {shapes}")
        rows = sum(part.shape[0] if part.dim() else 1 for part in parts)
        shape = [rows, *first.shape[1:]]
        return torch.empty(shape if experts is None else [experts, *shape], dtype=first.dtype, device=self._device)

    def _stack(self, parameter: str, group: _Group, experts: list[int]) -> torch.Tensor:
        orders = sorted({order for _, order in group.parts})
        parts = [group.parts[(experts[0], order)][3] for order in orders if (experts[0], order) in group.parts]
        for expert in experts:
            for index, order in enumerate(orders):
                part = group.parts.get((expert, order))
                if part is None or len(parts) != len(orders):
                    raise LayoutError(f"the experts of {parameter!r} do not have the same parts: see expert {expert}")
                if part[3].shape != parts[index].shape or part[3].dtype != parts[index].dtype:
                    raise LayoutError(
                        f"tensor {part[0]!r} is unlike those of the other experts of {parameter!r}", tensor=part[0]
                    )
        return self._rows(parameter, parts, len(experts))


def _keep(tensor: torch.Tensor, kept: Slice | None) -> torch.Tensor:
    return tensor if kept is None else tensor.narrow(kept.dim, kept.start, kept.length)


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Bit by bit: copying booleans or floats as such may normalise them."""
    if source.numel() == 0:
        return
    integer = _INTEGERS[source.element_size()]
    target.view(integer).copy_(source.view(integer))
