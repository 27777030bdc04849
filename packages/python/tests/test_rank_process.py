"""The rank program and the process that started it: ends of either, forks, other ways to start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ckpt import OperationError, ParameterServer, RankError, client, control_engine, process
from ckpt_worker.trainer import publish
from client_parts import digests_of, engine_worker, is_running, left_behind, run_program, until, weights

pytestmark = pytest.mark.usefixtures("rank_program")
NOWHERE = control_engine("/nonexistent/engine.sock")


@pytest.fixture
def ps(rank_program: Path) -> Iterator[ParameterServer]:
    with ParameterServer(device="cpu", timeout=60) as server:
        yield server


def test_a_killed_program_is_an_exception_at_the_running_call_and_leaves_nothing(ps: ParameterServer) -> None:
    ps.register_checkpoint("a", named_tensors=weights(1))
    assert left_behind(ps.pid)
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        os.kill(ps.pid, signal.SIGKILL)

    timer = threading.Timer(0.5, kill)
    timer.start()
    with pytest.raises(RankError, match="was ended by SIGKILL") as error:
        ps.update("a", engine=NOWHERE)
    assert time.monotonic() - killed[0] < 1
    timer.join()
    assert (error.value.code, error.value.fields["pid"], error.value.fields["exitCode"]) == ("RANK_LOST", ps.pid, -9)
    until(lambda: left_behind(ps.pid) == [], 5)
    with pytest.raises(RankError, match="SIGKILL"):
        ps.register_checkpoint("b", named_tensors=weights(2))
    ps.close()
    assert left_behind(ps.pid, os.getpid()) == []
    with ParameterServer(device="cpu") as again:
        assert again.health().state == "ready"


#: Registers a checkpoint, publishes another one as a registration does, and is killed while a forked child lives on.
KILLED = """
import ctypes, os, signal, sys, torch
from ckpt import ParameterServer, requests
ps = ParameterServer(device="cpu")
ps.register_checkpoint("a", named_tensors={"w": torch.ones(1000)}, pool="shared")
offer = requests.offer(ps._client.process.label, None, None, {"w": torch.ones(1000)}, False, True)
# The C library's own fork runs no hooks of Python's: the child keeps everything open.
fork = {"none": lambda: -1, "python": os.fork, "c": ctypes.CDLL(None).fork}[sys.argv[1]]
child = fork()
if child == 0:
    os.close(1), os.close(2)
    signal.pause()
print(ps.pid, os.getpid(), child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("fork", ["none", "python", "c"])
def test_a_killed_trainer_takes_its_program_with_it_and_leaves_nothing(fork: str) -> None:
    done = run_program(KILLED, fork)
    assert done.returncode == -signal.SIGKILL, done.stderr
    program, trainer, child = map(int, done.stdout.split())
    try:
        until(lambda: not is_running(program), 10)
        assert left_behind(program, trainer) == []
    finally:
        if child > 0:
            os.kill(child, signal.SIGKILL)


def test_a_program_that_is_stopped_is_noticed(ps: ParameterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE", 1.0)
    monkeypatch.setattr(process, "_END_WITHIN", 0.1)
    os.kill(ps.pid, signal.SIGSTOP)
    with pytest.raises(OperationError, match="stopped or stuck") as error:
        ps.health()
    assert error.value.code == "TIMEOUT"
    ps._client.end(0.1)
    assert not is_running(ps.pid)
    assert left_behind(ps.pid) == []


def _use_copy(ps: ParameterServer) -> None:
    """In a forked child: calls are refused, and closing does nothing."""
    try:
        ps.health()
    except OperationError as error:
        ok = error.code == "INVALID_STATE" and "was forked from it" in str(error)
    else:
        ok = False
    ps.close()
    del ps
    with ParameterServer(device="cpu") as own:
        ok = ok and own.health().state == "ready"
    sys.exit(0 if ok else 1)


def test_a_forked_child_cannot_use_it_nor_end_it(ps: ParameterServer) -> None:
    ps.register_checkpoint("a", named_tensors=weights(1))
    child = multiprocessing.get_context("fork").Process(target=_use_copy, args=(ps,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ps.gather_metas("a").tensors == len(weights(1))
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    child.start()
    child.join(60)
    assert ps.health().state == "ready"


def _work(directory: str) -> None:
    with ParameterServer(device="cpu") as own:
        own.register_checkpoint("a", named_tensors={"w": torch.ones(3)})
        Path(directory, str(own.gather_metas("a").tensors)).touch()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_have_their_own(tmp_path: Path, method: str) -> None:
    child = multiprocessing.get_context(method).Process(target=_work, args=(str(tmp_path),))  # type: ignore[attr-defined]
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


#: A rank of torchrun: registers its own tensors, and updates its own engine worker with those of both ranks.
TORCHRUN = """
import os, sys, torch
from ckpt import ParameterServer, control_engine
rank = int(os.environ["RANK"])
with ParameterServer(device="cpu", timeout=60) as ps:
    assert (ps.rank, ps.world_size) == (rank, 2)
    generator = torch.Generator().manual_seed(rank)
    ps.register_checkpoint("a", named_tensors={f"w{rank}": torch.randn(50, 20, generator=generator)})
    report = ps.update("a", engine=control_engine(lambda rank: sys.argv[1 + rank]))
    assert report.tensors == 2, report
"""


def test_ranks_of_torchrun_find_each_other(tmp_path: Path) -> None:
    program = tmp_path / "trainer.py"
    program.write_text(TORCHRUN)
    wanted = {f"w{rank}": torch.randn(50, 20, generator=torch.Generator().manual_seed(rank)) for rank in (0, 1)}
    with engine_worker() as first, engine_worker() as second:
        torchrun = (
            "import sys, runpy; sys.argv[0] = 'torchrun'; runpy.run_module('torch.distributed.run', run_name='__main__')",
        )
        done = run_program(*torchrun, "--standalone", "--nproc-per-node=2", str(program), first.path, second.path)
        assert done.returncode == 0, done.stderr
        assert first.digests == second.digests == digests_of(wanted)


def test_what_is_not_closed_ends_with_the_program() -> None:
    done = run_program("from ckpt import ParameterServer\nps = ParameterServer(device='cpu')\nprint(ps.pid)")
    assert done.returncode == 0, done.stderr
    until(lambda: not is_running(int(done.stdout)), 10)
    done = run_program("from ckpt import ParameterServer\nps = ParameterServer(device='cpu')\npid = ps.pid\ndel ps\nprint(pid)")
    assert done.returncode == 0, done.stderr
    assert not is_running(int(done.stdout))


def test_a_program_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPT_BUNDLE", str(tmp_path))
    with pytest.raises(RankError, match=r"CKPT_BUNDLE=.* is not a bundle") as error:
        ParameterServer()
    assert error.value.code == "ADDON_UNAVAILABLE"
    for name in ("lib", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib/rank.mjs").touch()
    (tmp_path / "bin/ckpt-node").write_text("echo ckpt: no place to unpack Node to >&2; exit 127")
    with pytest.raises(RankError, match=r"ended with exit code 127\n  ckpt: no place to unpack Node to") as error:
        ParameterServer()
    assert error.value.code == "RANK_LOST"


def test_shared_memory_has_the_name_that_its_owner_chose() -> None:
    with publish({"w": torch.ones(2)}, label="ckpt-trainer-1-test-") as publication:
        assert publication.memories[0]["name"].startswith("ckpt-trainer-1-test-")
