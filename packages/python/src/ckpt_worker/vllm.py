"""Name of the worker extension on vLLM's command line: ``--worker-extension-cls ckpt_worker.vllm.WorkerExtension``."""

from .engines.vllm import WorkerExtension

__all__ = ["WorkerExtension"]
