"""One update of a vLLM worker's models, whichever of vLLM's plug-in points it came through."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch

from ..engine_call import UpdateCall
from ..session import UpdateResult, run_update
from .loads import Target, open_load


@dataclass
class Served:
    """What a worker serves."""

    version: str | None = None
    #: Whether the parameters hold anything but a whole committed version.
    dirty: bool = False


def take_update(
    call: UpdateCall, address: str, uuid: str, targets: list[Target], device: torch.device, served: Served
) -> UpdateResult:
    """Runs the worker protocol against one rank and loads what comes into the targets; ``served`` is kept up to date.

    vLLM's configuration must be the current one: layers look it up while they are loaded.
    """

    def commit(version: str) -> None:
        served.version, served.dirty = version, False

    with torch.no_grad():
        load = open_load(targets, device)
        try:
            return run_update(
                address,
                call.token,
                load.load,
                load.finish,
                device,
                call.timeout_ms / 1000,
                commit=commit,
                engine=f"vllm {_version()}",
                device_uuid=uuid,
            )
        except BaseException:
            try:
                load.abandon()
            finally:
                served.dirty |= load.changed
            raise


def worker_index(vllm_config: Any, rank: int) -> int:
    """A worker's place among all workers of the instance, data-parallel replicas included."""
    parallel = vllm_config.parallel_config
    replica: Any = getattr(parallel, "data_parallel_index", None)
    if replica is None:
        replica = getattr(parallel, "data_parallel_rank", 0)
    return int(replica) * int(parallel.world_size) + rank


def _version() -> str:
    return str(getattr(importlib.import_module("vllm"), "__version__", "of unknown version"))
