"""Tensors on the CPU are written into the rank program's memory: every byte, also where the system refuses it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from ckpt import ParameterServer, control_engine
from ckpt.host_writes import HostWrites
from client_parts import digests_of, engine_worker, run_program


def test_tensors_of_all_sizes_reach_their_addresses() -> None:
    sizes = [0, 1, 7, (64 << 20) + 3, 5, 64 << 20, *range(600)]
    tensors = [torch.randint(0, 255, (size,), dtype=torch.uint8) for size in sizes]
    targets = [torch.zeros_like(tensor) for tensor in tensors]
    done: list[int] = []
    writes = HostWrites(tensors)
    assert writes.write(os.getpid(), [target.data_ptr() for target in targets], done.append) is None
    assert all(torch.equal(*pair) for pair in zip(tensors, targets, strict=True))
    assert (max(done), sorted(done)) == (sum(sizes), done)


def test_a_stop_ends_the_writing_before_it_returns_or_prevents_it() -> None:
    source = torch.ones(1 << 28, dtype=torch.uint8)
    target = torch.zeros_like(source)
    began, writes = threading.Event(), HostWrites([source])
    reasons: list[str | None] = []

    def write() -> None:
        reasons.append(writes.write(os.getpid(), [target.data_ptr()], lambda _: began.set()))

    thread = threading.Thread(target=write)
    thread.start()
    assert began.wait(60)
    writes.stop()
    written = int(target.sum())
    thread.join()
    assert written == int(target.sum())
    write()
    assert int(target.sum()) == written
    assert reasons[1] == "the call was cancelled"


def test_memory_that_is_not_there_is_an_error_with_the_reason_of_the_system() -> None:
    writes = HostWrites([torch.ones(4)])
    reason = writes.write(os.getpid(), [4096], lambda _: None)
    assert reason == f"cannot write to the memory of process {os.getpid()}: Bad address"
    assert not writes.refused


#: The system refuses process_vm_writev (number 311 on x86-64, 271 elsewhere) to this program and its children, by seccomp.
REFUSED = """
import ctypes, platform, struct, sys
from client_parts import weights
from ckpt import ParameterServer, control_engine
number = 311 if platform.machine() == "x86_64" else 271
program = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, number, 0x06, 0, 0, 0x00050001, 0x06, 0, 0, 0x7FFF0000)
filter = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("HxxxxxxP", 4, ctypes.addressof(filter))) == 0
with ParameterServer(device="cpu", insecure=True) as ps:
    for step in (1, 2):
        ps.register_checkpoint(f"{step}", named_tensors=weights(step).items(), pool="shared")
        print(ps._client.can_write)
    ps.update("2", engine=control_engine(sys.argv[1]))
"""


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="seccomp is Linux's")
@pytest.mark.usefixtures("rank_program")
def test_where_the_system_refuses_it_tensors_pass_through_shared_memory() -> None:
    from client_parts import weights

    with engine_worker() as worker:
        done = run_program(REFUSED, worker.path, PYTHONPATH=str(Path(__file__).parent))
        assert (done.returncode, done.stdout.split()) == (0, ["False", "False"]), done.stderr
        assert worker.digests == digests_of(weights(2))


@pytest.mark.usefixtures("rank_program")
def test_a_registration_needs_no_shared_memory() -> None:
    named = {"a": torch.randn(3, 5), "b": torch.arange(7), "empty": torch.ones(0)}
    expected = digests_of(named)
    with engine_worker() as worker, ParameterServer(device="cpu") as ps:
        before = set(os.listdir("/dev/shm"))
        ps.register_checkpoint("x", named_tensors=named)
        assert {name for name in os.listdir("/dev/shm") if name.startswith("ckpt-trainer")} <= before
        named["a"].zero_()
        ps.update("x", engine=control_engine(worker.path))
        assert worker.digests == expected
