"""A trainer that forks while it serves: the end of its children does not affect ranks that read from it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_worker.trainer import Served, publish, serve
from test_trainer import FakeRank


def _leave(_: Served) -> None:
    sys.exit(0)


def _raise(_: Served) -> None:
    raise KeyboardInterrupt


def _close(served: Served) -> None:
    served.close()
    served.publication.close()


def _grandchild(served: Served) -> None:
    child = os.fork()
    if child == 0:
        _close(served)
        os._exit(0)
    os.waitpid(child, 0)
    sys.exit(0)


ENDINGS: list[Callable[[Served], None]] = [_leave, _raise, _close, _grandchild]


def _fork(served: Served, ending: Callable[[Served], None]) -> int:
    """Forks a child that ends inside the ``with`` block of its parent, as a script's child does."""
    child = os.fork()
    if child != 0:
        return child
    try:
        with served:
            ending(served)
    finally:
        os._exit(0)


def _wait(child: int) -> None:
    deadline = time.monotonic() + 30
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)


def _shared(served: Served) -> list[str]:
    return [os.path.join("/dev/shm", memory["name"]) for memory in served.publication.memories]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("children", [1, 3])
def test_an_offer_outlives_forked_children(tmp_path: Path, ending: Callable[[Served], None], children: int) -> None:
    path = tmp_path / "trainer"
    with serve({"a": torch.arange(10.0)}, str(path)) as served:
        for child in [_fork(served, ending) for _ in range(children)]:
            _wait(child)
        assert all(os.path.exists(name) for name in _shared(served))
        with FakeRank(path) as rank:
            rank.send(type="hello", protocol=1)
            assert [row[0] for row in rank.receive()["tensors"]] == ["a"]
    assert not path.exists()
    assert not any(os.path.exists(name) for name in _shared(served))


def test_an_offer_outlives_a_worker_of_multiprocessing(tmp_path: Path) -> None:
    path = tmp_path / "trainer"
    with serve({"a": torch.arange(10.0)}, str(path)) as served:
        worker = multiprocessing.get_context("fork").Process(target=_close, args=(served,))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
        assert path.exists()
        assert all(os.path.exists(name) for name in _shared(served))


def test_a_publication_outlives_forked_children() -> None:
    with publish({"a": torch.arange(10.0)}) as publication:
        child = os.fork()
        if child == 0:
            publication.close()
            os._exit(0)
        _wait(child)
        assert all(os.path.exists(os.path.join("/dev/shm", memory["name"])) for memory in publication.memories)
