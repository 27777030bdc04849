"""Entry point ``vllm.general_plugins``: runs in every vLLM process of an environment that has this package."""

from __future__ import annotations

import importlib

BACKEND = "ckpt"


def register() -> None:
    """Registers the backend with vLLM's weight transfer. Does nothing in versions without it, or if registered already."""
    try:
        factory = importlib.import_module("vllm.distributed.weight_transfer.factory").WeightTransferEngineFactory
        base = importlib.import_module("vllm.distributed.weight_transfer.base").WeightTransferEngine
    except (ImportError, AttributeError):
        return
    # Earlier interfaces passed a loader to `receive_weights`, without a notification of the end of loading.
    if BACKEND not in factory._registry and hasattr(base, "start_weight_update"):
        factory.register_engine(BACKEND, "ckpt_worker.engines.vllm.native", "CkptWeightTransferEngine")
    trainers = getattr(
        importlib.import_module("vllm.distributed.weight_transfer.factory"), "WeightTransferTrainerFactory", None
    )
    if trainers is not None and BACKEND not in trainers._registry:
        trainers.register_engine(BACKEND, "ckpt.integrations.vllm", "CkptTrainerWeightTransferEngine")
