"""Result of recording an update: routes, opaque tensors, and the places of the parameters."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .casts import Cast
from .regions import Region


class Place(NamedTuple):
    """Place of a parameter: address and size of its storage, and its view of that."""

    address: int
    size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def place_of(tensor: torch.Tensor) -> Place:
    """Returns a tensor's current place."""
    storage = tensor.untyped_storage()
    return Place(
        storage.data_ptr(),
        storage.nbytes(),
        int(tensor.storage_offset()),
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.dtype,
    )


class Route(NamedTuple):
    """A region of a tensor and its place in a storage; both by index."""

    tensor: int
    storage: int
    region: Region


class Parameter(NamedTuple):
    """A contiguous parameter that routes write completely."""

    name: str
    storage: int
    offset: int
    size: int


class Twins(NamedTuple):
    """Two tensors of one dtype and shape that are copied to one place in the same way: their bytes must be equal."""

    first: str
    second: str
    parameter: str


@dataclass(frozen=True)
class Recording:
    """Copies of one worker's loader. Immutable."""

    #: Name, dtype, shape.
    tensors: list[tuple[str, str, list[int]]]
    #: Sizes in bytes.
    storages: list[int]
    #: Their addresses.
    addresses: list[int]
    parameters: list[Parameter]
    routes: list[Route]
    #: Reason by the tensor's index.
    opaque: dict[int, str]
    #: Handles of the storages, one each; or the reason if they cannot be shared.
    handles: list[dict[str, Any]] | str
    #: Places of the parameters that routes write to.
    places: Mapping[str, Place]
    #: Tensors whose bytes must be equal, because they go to one place.
    twins: list[Twins] = field(default_factory=list)
    #: True if the loader was given tensors without data: no bytes have been compared yet.
    rehearsed: bool = False
    #: What the loader does to opaque tensors that it only casts. No rank is told: the worker does it itself.
    casts: list[Cast] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def fits(self, parameters: Mapping[str, torch.Tensor]) -> bool:
        """Returns True if the parameters are at the same places."""
        for name, place in self.places.items():
            tensor = parameters.get(name)
            if tensor is None or place_of(tensor) != place:
                return False
        return True

    def describe(self) -> dict[str, Any]:
        """Returns the form of docs/worker-protocol.md."""
        return {
            "id": self.id,
            "tensors": self.tensors,
            "storages": self.storages,
            "parameters": [list(parameter) for parameter in self.parameters],
            "routes": [
                [tensor, storage, region.source, region.destination, region.row, [n for dim in region.dims for n in dim]]
                for tensor, storage, region in self.routes
            ],
            "opaque": [[tensor, reason] for tensor, reason in self.opaque.items()],
            **({"rehearsed": True} if self.rehearsed else {}),
        }
