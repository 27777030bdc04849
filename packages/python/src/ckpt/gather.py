"""Gathers sharded tensors (DTensors of FSDP2 and of tensor parallelism): every rank keeps a part of the whole tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import error


def has_shards(tensors: Mapping[str, Any]) -> bool:
    """Returns true if one of the tensors is a part of a sharded one (a DTensor)."""
    return any(_mesh(value) is not None for value in tensors.values())


def gather(tensors: Mapping[str, Any], *, ranks: Sequence[int] | None = None) -> dict[str, Any]:
    """Gathers a sharded state dictionary; every process of the device mesh calls it, with the same names in the same order.

    One tensor is gathered at a time, and kept by one process: the processes keep about the same number of bytes. So together
    they register one checkpoint, each its own part. Tensors that are not sharded count as equal in all processes.

    :param ranks: processes (of ``torch.distributed``) that keep tensors (default: all of the tensor's mesh).
    :raises OperationError: ``INVALID_ARGUMENT`` if there is no process group.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise error("INVALID_ARGUMENT", "sharded tensors need a process group of torch.distributed", field="named_tensors")
    own = torch.distributed.get_rank()
    everyone = list(range(torch.distributed.get_world_size()))
    kept: dict[str, Any] = {}
    loads = dict.fromkeys(ranks or everyone, 0)
    for name, value in tensors.items():
        mesh = _mesh(value)
        # A tensor that is not sharded is in the processes of the dictionary's meshes.
        holders = _holders(tensors, everyone) if mesh is None else _flat(mesh)
        owner = _lightest(loads, ranks or holders)
        loads[owner] += getattr(value, "nbytes", 0)
        whole = value if mesh is None else value.full_tensor()
        if owner == own:
            kept[name] = whole
    return kept


def check_world(world_size: int) -> None:
    """Checks that every process of ``torch.distributed`` is a rank.

    :raises OperationError: ``INVALID_ARGUMENT`` with the remedy, if some are not: what they keep would be missing.
    """
    import torch

    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if processes != world_size:
        raise error(
            "INVALID_ARGUMENT",
            f"the tensors are sharded over {processes} processes, but there are {world_size} ranks: call "
            "ckpt.gather(tensors, ranks=[…]) in all processes, with the processes that have a ParameterServer, and register "
            "the result there",
            field="named_tensors",
        )


def _mesh(value: Any) -> Any:
    """Returns the device mesh of a DTensor; None for everything else."""
    mesh = getattr(value, "device_mesh", None)
    return mesh if mesh is not None and hasattr(value, "full_tensor") else None


def _flat(mesh: Any) -> list[int]:
    return sorted({int(rank) for rank in mesh.mesh.flatten().tolist()})


def _holders(tensors: Mapping[str, Any], everyone: Sequence[int]) -> Sequence[int]:
    """Returns the processes that hold the largest mesh of a dictionary."""
    meshes = [_flat(mesh) for mesh in map(_mesh, tensors.values()) if mesh is not None]
    return max(meshes, key=len, default=list(everyone))


def _lightest(loads: dict[int, int], ranks: Iterable[int]) -> int:
    """Returns the process that keeps the fewest bytes so far."""
    return min(ranks, key=lambda rank: (loads.setdefault(rank, 0), rank))
