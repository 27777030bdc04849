"""Checkpoint engine of NeMo-RL: ``policy.generation.refit_transport: "ckpt.integrations.nemo_rl:CkptCheckpointEngine"``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_rl.utils.checkpoint_engines.base import CheckpointEngine

from .transfer import Transfer, drain, meeting

if TYPE_CHECKING:
    import torch

    from .transfer import Batch


class CkptCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """One process: the first policy worker sends, every rollout worker receives.

    :param bucket_size: bytes of a batch that a rollout worker gets at a time.
    :param options: of the :class:`ckpt.ParameterServer` (``refit_cfg``). ``shard_expert_weights`` must be false, and
        ``release_after_refit`` (default true) is NeMo-RL's own.
    """

    def __init__(
        self, bucket_size: int, *, release_after_refit: bool = True, shard_expert_weights: bool = False, **options: Any
    ) -> None:
        if shard_expert_weights:
            raise ValueError("shard_expert_weights: this backend sends whole tensors; set it to false")
        self._transfer = Transfer(bucket_size, options)
        self._release = release_after_refit
        self._sends = False

    def prepare(self) -> dict[str, Any]:
        """Returns where this process would let the others meet."""
        return self._transfer.describe()

    def init_policy_process_group(
        self, *, worker_rank: int, train_world_size: int, rollout_world_size: int, metadata: Sequence[Mapping[str, Any]]
    ) -> None:
        """Joins the others, in the first policy worker."""
        self._sends = worker_rank == 0
        if self._sends:
            self._transfer.join(0, 1 + rollout_world_size, _where(metadata, train_world_size))

    def init_rollout_process_group(
        self, *, rollout_rank: int, train_world_size: int, rollout_world_size: int, metadata: Sequence[Mapping[str, Any]]
    ) -> None:
        """Joins the others."""
        self._transfer.join(1 + rollout_rank, 1 + rollout_world_size, _where(metadata, train_world_size))

    async def send_weights(self, weights: Generator[tuple[str, torch.Tensor], None, None]) -> None:
        """Sends the weights, or runs through them in a policy worker that does not send."""
        if self._sends:
            await self._transfer.send(weights, None)
        else:
            drain(weights)

    async def receive_weight_batches(self) -> AsyncGenerator[Batch, None]:
        """Yields the weights in batches."""
        async for batch in self._transfer.receive(None):
            yield batch

    def finalize(self) -> None:
        """Leaves the others, if NeMo-RL releases the backend after each refit."""
        if self._release:
            self._transfer.close()


def _where(metadata: Sequence[Mapping[str, Any]], train_world_size: int) -> dict[str, Any]:
    # Every process makes the same of it: nothing new may be drawn here.
    first = metadata[0]
    return {**meeting([first, *metadata[train_world_size:]]), "session": str(first["token"])[:16]}
