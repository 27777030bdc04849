"""Number of torch's threads during loads: threads that wait for one another make copies slow on a busy machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

import torch


def free_processors() -> int:
    """Number of this process's processors that others leave free, at least 1."""
    return max(1, int(len(os.sched_getaffinity(0)) - os.getloadavg()[0]))


@contextlib.contextmanager
def bounded_threads(most: int) -> Generator[None]:
    """Lets torch use at most ``most`` threads inside the block."""
    before = torch.get_num_threads()
    if most >= before:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(before)
