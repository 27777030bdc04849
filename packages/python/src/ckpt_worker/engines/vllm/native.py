"""Backend ``ckpt`` of vLLM's own weight transfer (``--weight-transfer-config '{"backend": "ckpt"}'``).

One ``update_weights`` takes a whole update, from the first bucket to the commit. An update that is prepared on one worker must
not become visible before it is prepared on all, so ``finish_weight_update`` has nothing left to do.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from ...loading.cuda_driver import device_uuid
from ...protocol.engine_call import check_listening, endpoint_for, parse_call
from .target import Target
from .update import Served, take_update, worker_index

logger = logging.getLogger(__name__)


@dataclass
class CkptInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Empty, because nothing has to be agreed in advance."""


@dataclass
class CkptUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One update; ``call`` is an :class:`ckpt_worker.engine_call.UpdateCall` in its JSON form."""

    call: dict[str, Any] = field(default_factory=dict)


class CkptWeightTransferEngine(WeightTransferEngine[CkptInitInfo, CkptUpdateInfo]):  # type: ignore[misc]
    """Takes updates through this project's worker protocol. Only ``start_draft_weight_update`` updates a drafter."""

    init_info_cls = CkptInitInfo
    update_info_cls = CkptUpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self.served = Served()

    def init_transfer_engine(self, init_info: CkptInitInfo) -> None:
        """Does nothing: every update has its own addresses."""

    def start_weight_update(self) -> None:
        """Does nothing before the first bucket, so that an update that never arrives changes nothing."""

    def finish_weight_update(self) -> None:
        """Does nothing."""

    def receive_weights(self, update_info: CkptUpdateInfo) -> None:
        """Takes the update, to its commit."""
        call = parse_call(update_info.call)
        uuid = device_uuid(self.device)
        endpoint = endpoint_for(call, worker_index(self.vllm_config, self.vllm_config.parallel_config.rank), uuid)
        check_listening(endpoint.address)
        target = Target(self.model, self.model_config, call.complete and self.model is self._default_model)
        with set_current_vllm_config(self.vllm_config):
            result = take_update(call, endpoint.address, uuid, [target], self.device, self.served)
        logger.info("version %s: %d tensors, %d bytes", result.version, result.tensors, result.bytes)

    def shutdown(self) -> None:
        """Does nothing: no state is held between updates."""
