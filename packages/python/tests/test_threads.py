"""Torch's threads during loads."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable

import pytest
import torch

from ckpt_worker import run_update
from ckpt_worker.loading.threads import bounded_threads, free_processors
from rank import TOKEN, Rank, in_thread


@pytest.fixture(autouse=True)
def restored() -> Generator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("load", "processors", "free"), [(0.0, 8, 8), (2.5, 8, 5), (7.9, 8, 1), (40.0, 8, 1)])
def test_processors_that_others_use_are_not_free(
    monkeypatch: pytest.MonkeyPatch, load: float, processors: int, free: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert free_processors() == free


def test_threads_are_bounded_inside_the_block_alone() -> None:
    torch.set_num_threads(3)
    with bounded_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="loader on 2 threads"), bounded_threads(2):
        raise ValueError(f"of the loader on {torch.get_num_threads()} threads")
    assert torch.get_num_threads() == 3
    with bounded_threads(8):
        assert torch.get_num_threads() == 3


def test_a_loader_on_a_busy_machine_gets_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    torch.set_num_threads(2)
    seen: list[int] = []

    def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        seen.extend(torch.get_num_threads() for _ in tensors)

    def update(rank: Rank) -> int:
        run_update(rank.address, TOKEN, load, None, "cpu", 10.0)
        return torch.get_num_threads()

    with Rank() as rank:
        running = in_thread(lambda: update(rank))
        rank.update({"a": torch.arange(9, dtype=torch.uint8)}, "step-1")
        assert running.result(10.0) == 2
    assert seen == [1]
