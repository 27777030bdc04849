"""One worker extension of vLLM with ckpt's calls and checkpoint-engine's, so that one server takes updates from both."""

from __future__ import annotations

from checkpoint_engine.worker import VllmColocateWorkerExtension

from ckpt_worker.vllm import WorkerExtension


class BothExtensions(WorkerExtension, VllmColocateWorkerExtension):
    """``--worker-extension-cls ckpt_bench_extension.BothExtensions``."""
