"""vLLM's side: the worker extension (``--worker-extension-cls ckpt_worker.vllm.WorkerExtension``).

The plug-in for vLLM's own weight-transfer interface is in :mod:`ckpt_worker.engines.vllm.native`. Nothing here imports vLLM
until it is used inside an engine.
"""

from .extension import WorkerExtension

__all__ = ["WorkerExtension"]
