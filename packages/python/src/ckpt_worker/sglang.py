"""Name of SGLang's plug-in: ``ckpt_worker.sglang:register``."""

from .engines.sglang import register

__all__ = ["register"]
