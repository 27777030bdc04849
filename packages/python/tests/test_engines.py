"""Engines that the trainer's own process contains or calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from ckpt import AsyncParameterServer, CkptError, EngineError, ParameterServer, local_engine, requested_engine
from client_parts import digests_of, weights

pytestmark = pytest.mark.usefixtures("rank_program")


class Kept:
    """Copies of the tensors of an update."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.versions: list[str] = []

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.tensors |= {name: tensor.clone() for name, tensor in tensors}


@pytest.fixture(scope="module")
def ps(rank_program: Path) -> Iterator[ParameterServer]:
    with ParameterServer(device="cpu", timeout=30, insecure=True) as server:
        yield server


def test_a_worker_in_this_process_gets_every_tensor(ps: ParameterServer) -> None:
    kept = Kept()
    engine = local_engine(kept.load, commit=kept.versions.append)
    for step in (1, 2):
        ps.register_checkpoint(f"{step}", named_tensors=weights(step))
        report = ps.update(f"{step}", engine=engine)
        assert report.tensors == len(kept.tensors)
        assert digests_of(kept.tensors) == digests_of(weights(step))
        ps.unregister_checkpoint(f"{step}")
    assert kept.versions == ["1", "2"]


def test_its_exception_fails_the_update_and_the_next_one_works(ps: ParameterServer) -> None:
    def refuse(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        raise ValueError("no room for them")

    ps.register_checkpoint("a", named_tensors=weights(1))
    with pytest.raises(CkptError, match="no room for them"):
        ps.update("a", engine=local_engine(refuse))
    kept = Kept()
    ps.update("a", engine=local_engine(kept.load))
    assert digests_of(kept.tensors) == digests_of(weights(1))
    ps.unregister_checkpoint("a")


def test_coroutines_may_use_it_too() -> None:
    async def steps() -> Kept:
        kept = Kept()
        async with AsyncParameterServer(device="cpu", timeout=30, insecure=True) as ps:
            await ps.register_checkpoint("a", named_tensors=weights(3))
            await ps.update("a", engine=local_engine(kept.load))
        return kept

    assert digests_of(asyncio.run(steps()).tensors) == digests_of(weights(3))


def test_checkpoint_engines_worker_needs_a_gpu(ps: ParameterServer) -> None:
    ps.register_checkpoint("a", named_tensors=weights(1))
    with pytest.raises(CkptError, match="needs a ring in CUDA memory") as error:
        ps.update("a", engine=requested_engine(lambda _: None))
    assert error.value.code == "UNSUPPORTED"
    ps.unregister_checkpoint("a")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_an_engine_that_a_function_calls_gets_the_addresses_and_its_failure_is_the_updates() -> None:
    asked: list[list[tuple[str, str]]] = []

    def fail(sockets: list[tuple[str, str]]) -> None:
        asked.append(sockets)
        raise ConnectionError("the engine is not there")

    with ParameterServer(timeout=30, insecure=True) as ps:
        ps.register_checkpoint("a", named_tensors=weights(1))
        with pytest.raises(EngineError, match="ConnectionError: the engine is not there"):
            ps.update("a", engine=requested_engine(fail))
        ((device, address),) = asked[0]
        assert address.startswith("ipc://@checkpoint-engine-")
        assert device.startswith("GPU-")
        # A function that never returns does not keep an update that has failed.
        hanging = threading.Event()

        def hang(sockets: list[tuple[str, str]]) -> None:
            hanging.wait()

        with pytest.raises(CkptError) as error:
            ps.update("a", engine=requested_engine(hang), timeout=1)
        hanging.set()
        assert error.value.code in ("TIMEOUT", "ENGINE_UNREACHABLE"), error.value
