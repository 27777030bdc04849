"""Actors and rollout workers for verl's checkpoint manager: verl's classes, without a model or an inference engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch
from verl.checkpoint_engine import CheckpointEngineRegistry, CheckpointEngineWorker
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.import_utils import import_external_libs
from verl.workers.rollout.base import BaseRollout

from ckpt_worker import digest


def weights(step: int) -> dict[str, torch.Tensor]:
    """Weights after a step; more than one bucket of 1 MiB."""
    generator = torch.Generator().manual_seed(step)
    named = {f"layers.{i}.weight": torch.randn(300, 1000, generator=generator) for i in range(4)}
    return named | {"norm": torch.randn(7, generator=generator).bfloat16(), "scale": torch.randn((), generator=generator)}


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: digest(tensor.flatten().view(torch.uint8)) for name, tensor in tensors.items()}


class Actor(Worker):  # type: ignore[misc]
    """A training process: as verl's own, it makes an engine and sends what its model exports."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        import_external_libs(config.custom_backend_module)
        self.checkpoint_engine = CheckpointEngineRegistry.new(
            config.backend,
            is_master=self.rank == 0,
            bucket_size=config.update_weights_bucket_megabytes << 20,
            **config.engine_kwargs.get(config.backend, {}),
        )
        self.drained = 0

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps: int = 0, mode: str = "auto") -> dict[str, float]:
        def export() -> Iterator[tuple[str, torch.Tensor]]:
            # One memory for all, as exports use it: nothing may be kept of a tensor once the next one is made.
            for name, tensor in weights(global_steps).items():
                yield name, tensor
                tensor.zero_()
                self.drained += 1

        metrics: dict[str, float] = await self.checkpoint_engine.send_weights(export(), global_steps=global_steps)
        return metrics or {}

    @register(dispatch_mode=Dispatch.DP_COMPUTE, blocking=False)
    def execute_checkpoint_engine(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.checkpoint_engine, method)(*args, **kwargs)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def tensors_made(self) -> int:
        return self.drained


class Kept(BaseRollout):  # type: ignore[misc]
    """Keeps the weights instead of an inference engine."""

    def __init__(self) -> None:
        self.replica_rank, self.is_leader_rank = 0, True
        self.kept: dict[str, torch.Tensor] = {}
        self.dies_at = -1

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self, weights: AsyncIterator[tuple[str, torch.Tensor]], wire_format: str = "named_tensors", **kwargs: Any
    ) -> None:
        assert wire_format == "named_tensors"
        held = []
        async for name, tensor in weights:
            # As SGLang's adapter does, it holds tensors while further ones come.
            held.append((name, tensor))
            if kwargs["global_steps"] == self.dies_at:
                os._exit(9)
        self.kept = dict(held)


class Rollout(CheckpointEngineWorker):  # type: ignore[misc]
    """A rollout process."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, None, server_adapter=Kept())

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def digests(self) -> dict[str, int]:
        return digests(self.server_adapter.kept)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def die_at(self, step: int, rank: int) -> None:
        self.server_adapter.dies_at = step if self.rank == rank else -1


class Replica:
    """What the manager calls at a replica; it has no requests."""

    def __init__(self, workers: list[Any]) -> None:
        self.workers = workers
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(**options: Any) -> None:
            self.calls.append(name)

        return call
