"""Hands buckets to vLLM's own loaders."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from .coverage import Coverage
from .target import Target
from .tied import TiedParameters

Named = tuple[str, torch.Tensor]


def feed(
    targets: list[Target], tensors: Iterable[Named], coverage: Coverage, tied: TiedParameters, seen: list[torch.Tensor]
) -> None:
    """Hands one bucket to every model; ``seen`` receives its tensors."""
    bucket: list[Named] = []

    def passing() -> Iterator[Named]:
        for item in tensors:
            tied.saw(*item)
            bucket.append(item)
            seen.append(item[1])
            yield item

    with without_completeness_checks(), coverage.counting():
        for index, target in enumerate(targets):
            loaded = target.model.load_weights(passing() if index == 0 else iter(bucket))  # type: ignore[operator]
            coverage.saw(index, loaded)


def without_completeness_checks() -> AbstractContextManager[None]:
    """Multi-token-prediction models check that each load is a whole checkpoint; a bucket never is."""
    try:
        module = importlib.import_module("vllm.model_executor.model_loader.mtp_validation")
    except ImportError:
        return nullcontext()
    context: AbstractContextManager[None] = module.disable_mtp_completeness_check()
    return context
