"""Backend ``ckpt`` of verl's checkpoint engines (verl 0.9).

.. code-block:: yaml

    actor_rollout_ref:
      rollout:
        checkpoint_engine:
          backend: ckpt
          custom_backend_module: ckpt.integrations.verl
          engine_kwargs: {ckpt: {heartbeat_timeout: 15}}
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

from .transfer import Transfer, drain, meeting

if TYPE_CHECKING:
    import torch


@CheckpointEngineRegistry.register("ckpt")
class CkptCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """One process: the first actor sends, every rollout worker receives.

    :param bucket_size: bytes that a rollout worker holds for its engine at a time.
    :param is_master: true in the actor that sends.
    :param options: of the :class:`ckpt.ParameterServer` (``engine_kwargs.ckpt``).
    """

    wire_format = "named_tensors"

    def __init__(self, bucket_size: int, is_master: bool = False, **options: Any) -> None:
        self.bucket_size = bucket_size
        self.is_master = is_master
        self._transfer = Transfer(bucket_size, options)
        self._sends = is_master

    def prepare(self) -> dict[str, Any]:
        """Returns where this process would let the others meet."""
        return self._transfer.describe()

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Returns arguments of :meth:`init_process_group` for the actors and for the rollout workers."""
        # Actors other than the first one take no part.
        where = meeting([metadata[0], *metadata[actor_wg_world_size:]])
        world_size = 1 + rollout_world_size

        def arguments(ranks: Sequence[int]) -> dict[str, list[Any]]:
            return {"rank": list(ranks), "world_size": [world_size] * len(ranks), "where": [where] * len(ranks)}

        return arguments([0] + [-1] * (actor_wg_world_size - 1)), arguments(range(1, world_size))

    def init_process_group(self, rank: int, world_size: int, where: Mapping[str, Any]) -> None:
        """Joins the other processes, if the rank is not negative."""
        self._sends = rank == 0
        if rank >= 0:
            self._transfer.join(rank, world_size, where)

    def finalize(self) -> None:
        """Does nothing: the ranks stay for the next update."""

    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> dict[str, float]:
        """Sends the weights, or runs through them in an actor that does not send. Returns figures of the transfer."""
        if not self._sends:
            drain(weights)
            return {}
        return await self._transfer.send(weights, _version(global_steps))

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Yields the weights."""
        async for batch in self._transfer.receive(_version(global_steps)):
            for name, tensor in batch:
                yield name, tensor


def _version(global_steps: int | None) -> str | None:
    return None if global_steps is None else str(global_steps)
