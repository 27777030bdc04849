"""Trainer's side of vLLM's own weight transfer, backend ``ckpt``: for scripts that use ``WeightTransferTrainerFactory``.

.. code-block:: python

    from ckpt.integrations.vllm import CkptTrainerInitInfo
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    engine = WeightTransferTrainerFactory.trainer_init(CkptTrainerInitInfo(rank=0), client=client, source=source)
    engine.send_weights()

Start the server with ``--weight-transfer-config '{"backend": "ckpt"}'``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from ckpt_worker.protocol.engine_key import engine_key

from ..choices import Engine, EngineStart
from ..parameter_server import ParameterServer
from .transfer import collect

if TYPE_CHECKING:
    import torch

BACKEND = "ckpt"


@dataclass
class CkptTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc]
    """This process's part; ``rank`` is its number among the trainer's ranks.

    There are as many of them as the server has workers (tensor x pipeline x data parallel), and each is on its worker's machine
    and GPU.
    """

    backend: ClassVar[str] = BACKEND

    #: Number of the trainer's ranks, and of the server's workers.
    world_size: int = field(default=1, kw_only=True)
    #: Of the :class:`ckpt.ParameterServer`.
    options: dict[str, Any] = field(default_factory=dict, kw_only=True)


class CkptTrainerWeightTransferEngine(TrainerWeightTransferEngine[CkptTrainerInitInfo]):  # type: ignore[misc]
    """Registers what its source yields, each rank a part, and updates the server's workers."""

    init_info_cls = CkptTrainerInitInfo

    def __init__(self, ps: ParameterServer, **base: Any) -> None:
        super().__init__(**base)
        self._ps = ps
        #: Number of updates; the server reports it as its version.
        self.version = 0

    @classmethod
    def trainer_init(
        cls, init_info: CkptTrainerInitInfo, *, client: Any, source: Any = None
    ) -> CkptTrainerWeightTransferEngine:
        """Starts the rank, and tells the server that updates will come."""
        if source is None:
            raise ValueError("backend ckpt needs a source of weights")
        alone = {"insecure": True} if init_info.world_size == 1 else {}
        ps = ParameterServer(rank=init_info.rank, world_size=init_info.world_size, **{**alone, **init_info.options})
        try:
            if init_info.is_sender:
                client.init_weight_transfer_engine({})
            return cls(ps, client=client, source=source, is_sender=init_info.is_sender)
        except BaseException:
            ps.close()
            raise

    def send_weights(self) -> None:
        """Sends what the source yields, and returns when the server serves it.

        :raises CkptError: of the update; the server keeps its version, or its workers report that they are dirty.
        """
        tensors = collect(self._own_part())
        name, version = "weights", str(self.version + 1)
        self._ps.register_checkpoint(name, named_tensors=tensors, pool="shared")
        try:
            self._ps.update(name, engine=Engine("client", {"protocol": "ckpt"}, self._call), version=version)
            self.version += 1
        finally:
            self._ps.unregister_checkpoint(name)

    def shutdown(self) -> None:
        """Ends the rank."""
        self._ps.close()

    def _own_part(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the tensors that this rank registers. All ranks make all of them: that is a collective."""
        loads = [0] * self._ps.world_size
        for name, tensor in self.source:
            if tensor is None:
                continue
            lightest = loads.index(min(loads))
            loads[lightest] += tensor.nbytes
            if lightest == self._ps.rank:
                yield name, tensor

    def _call(self, start: EngineStart) -> None:
        if not self.is_sender:
            return
        endpoints = [{"rank": one.rank, "deviceUuid": one.device_uuid, "address": one.address} for one in start.endpoints]
        call: dict[str, Any] = {"endpoints": endpoints, "token": start.token, "timeoutMs": start.timeout * 1000}
        key = engine_key()
        if key is not None:
            call["key"] = key
        self.client.start_weight_update()
        self.client.update_weights({"call": call})
        self.client.finish_weight_update(str(self.version + 1))


if BACKEND not in WeightTransferTrainerFactory._registry:
    WeightTransferTrainerFactory.register_engine(BACKEND, CkptTrainerWeightTransferEngine)
