"""What a tracer has seen of a loader: copies out of the ring, and other writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .regions import Region


@dataclass(frozen=True)
class Copied:
    """A copy out of the ring, byte for byte."""

    parts: list[tuple[str, Region]]
    #: The storage written to, and its address at that time.
    storage: StorageWeakRef
    address: int
    #: Shape, strides and offset of the destination in its storage, in elements of ``dtype``.
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    #: Digest of the copied bytes, in the order of the shape; 0-dimensional.
    digest: torch.Tensor
    #: True if the loader had read values of tensors before.
    guided: str | None


@dataclass(frozen=True)
class Written:
    """Any other write: addresses of its bytes, and the tensors from which it was computed."""

    storage: StorageWeakRef
    start: int
    end: int
    names: frozenset[str]
    operation: str
