"""A worker extension under which vLLM's CPU backend multiplies by weights where they lie, as its GPU backends do.

That backend packs the weights of linear layers for oneDNN, and drops the parameters. Without oneDNN, which it looks for here, it
falls back to torch's own multiplication.
"""

from __future__ import annotations

import os

from ckpt_worker.vllm import WorkerExtension
from vllm import _custom_ops

_custom_ops._supports_onednn = False


class PlainLinear(WorkerExtension):
    """The worker package's extension, and what a test asks of it."""

    def keep_parameters(self) -> None:
        """From now on no rank is to write into the parameters."""
        os.environ["CKPT_ENGINE_SHARE"] = "0"
