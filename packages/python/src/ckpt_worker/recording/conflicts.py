"""Two tensors for one place of an engine's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..errors import ConflictError
from ..loading.digest import digest
from ..protocol.messages import TensorEntry
from .overlaps import overlapping
from .recording import Twins
from .regions import Region, extent_of
from .seen import Copied, Written


def check_conflicts(
    copies: Sequence[Copied], changed: Sequence[bool], writes: Sequence[Written], parameters: Mapping[str, torch.Tensor]
) -> None:
    """Finds tensors over which tensors with different bytes were copied.

    :param changed: one value per copy, true if its bytes are no longer there.
    :raises ConflictError: naming both tensors and the parameter.
    """
    there: dict[int, list[Copied]] = {}
    for copied, gone in zip(copies, changed, strict=True):
        if not gone:
            there.setdefault(copied.address, []).append(copied)
    for copied, gone in zip(copies, changed, strict=True):
        if not gone or copied.address not in there or any(_over(copied, write) for write in writes):
            continue
        for later in there[copied.address]:
            for name, region in copied.parts:
                for second, over in later.parts:
                    if second != name and _meet(region, over):
                        raise conflict(name, second, parameter_at(parameters, copied.address + over.destination))


def twins_of(
    copies: Sequence[Copied], tensors: Mapping[str, tuple[str, list[int]]], parameters: Mapping[str, torch.Tensor]
) -> list[Twins]:
    """Returns pairs of tensors that are copied to one place in the same way."""
    seen: dict[tuple[int, Region], str] = {}
    found: dict[tuple[str, str], str] = {}
    for copied in copies:
        for name, region in copied.parts:
            first = seen.setdefault((copied.address, region), name)
            if first != name and tensors[first] == tensors[name] and (first, name) not in found:
                found[first, name] = parameter_at(parameters, copied.address + region.destination)
    return [Twins(first, second, parameter) for (first, second), parameter in found.items()]


class TwinCheck:
    """Compares tensors for one place in the updates after a recording."""

    def __init__(self, twins: Sequence[Twins]) -> None:
        self._twins = twins
        self._names = {name for twin in twins for name in twin[:2]}
        self._digests: dict[str, int] = {}

    def saw(self, entry: TensorEntry, ring: torch.Tensor) -> None:
        """Records a tensor whose bytes are in the ring."""
        if entry.name in self._names:
            value = entry.digest_value
            self._digests[entry.name] = digest(ring[entry.offset : entry.offset + entry.size]) if value is None else value

    def check(self) -> None:
        """:raises ConflictError: naming two tensors whose bytes differ, and the parameter."""
        for first, second, parameter in self._twins:
            found = [self._digests[name] for name in (first, second) if name in self._digests]
            if len(found) == 2 and found[0] != found[1]:
                raise conflict(first, second, parameter)


def conflict(first: str, second: str, parameter: str) -> ConflictError:
    """Returns the error for two tensors whose bytes differ."""
    text = f"tensors {first!r} and {second!r} are both loaded into parameter {parameter!r}, but have different bytes"
    return ConflictError(f"{text}: one of them would be lost; leave one out, or untie the parameters", tensor=second)


def parameter_at(parameters: Mapping[str, torch.Tensor], address: int) -> str:
    """Returns the name of the parameter at an address."""
    for name, tensor in parameters.items():
        if tensor.numel() and tensor.device.type != "meta":
            start, end = extent_of(tensor)
            if start <= address < end:
                return name
    return "(without a name)"


def _meet(one: Region, other: Region) -> bool:
    if one.destination >= other.destination_end or other.destination >= one.destination_end:
        return False
    return len(overlapping([one, other])) == 2


def _over(copied: Copied, write: Written) -> bool:
    if write.storage.expired():
        return False
    return any(
        copied.address + region.destination < write.end and write.start < copied.address + region.destination_end
        for _, region in copied.parts
    )
