"""What programs use of ``checkpoint_engine.distributed``: torch's process group."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def use_backend(backend: str | None) -> None:
    """Accepts None, for torch's own communication.

    :raises ValueError: for a name: there are no others here.
    """
    if backend:
        raise ValueError(f"custom backend {backend!r}: ckpt moves weights itself and has no such backends; leave it out")


def init_process_group(rank: int, world_size: int, store: Any, **options: Any) -> None:
    """Creates the default process group."""
    dist.init_process_group(rank=rank, world_size=world_size, store=store, **options)


def is_initialized() -> bool:
    """True if there is a default process group."""
    return dist.is_initialized()


def destroy_process_group(group: Any = None) -> None:
    """Ends a process group, or all of them."""
    dist.destroy_process_group(group)


def barrier(group: Any = None, **options: Any) -> None:
    """Waits for all processes of a group."""
    dist.barrier(group, **options)


def new_group(ranks: list[int], **options: Any) -> Any:
    """Creates a group of some processes."""
    return dist.new_group(ranks, **options)
