"""Parameters in shared memory: all of them or none, and back again."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckpt_worker.recording.shared_memory import give_back, is_shared, move_to_shared

MIB = 1 << 20


def free() -> int:
    found = os.statvfs("/dev/shm")
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("seed", range(6))
def test_moving_there_and_back_keeps_bytes_views_and_addresses(seed: int) -> None:
    choice = random.Random(seed)
    tensors = [
        torch.randint(0, 255, (choice.choice([1, 4095, 4096, 4097, 300_001, MIB]),), dtype=torch.uint8) for _ in range(5)
    ]
    views = [tensor[tensor.numel() // 3 :] for tensor in tensors]
    expected = [tensor.clone() for tensor in tensors]
    storages = [tensor.untyped_storage() for tensor in tensors]
    move_to_shared(storages)
    addresses = [tensor.data_ptr() for tensor in tensors]
    files = [f"/proc/self/fd/{storage._share_fd_cpu_()[0]}" for storage in storages]
    for turn in range(4):
        assert all(is_shared(storage) for storage in storages)
        maps = [torch.from_file(file, True, len(old), dtype=torch.uint8) for file, old in zip(files, expected, strict=True)]
        for tensor, view, mapped, before in zip(tensors, views, maps, expected, strict=True):
            assert torch.equal(mapped, before)
            mapped[-1] = turn + 1
            before[-1] = turn + 1
            assert torch.equal(tensor, before)
            assert view[-1] == turn + 1
        del maps, mapped
        assert all(os.stat(file).st_blocks > 0 for file in files)
        give_back(storages)
        assert not any(is_shared(storage) for storage in storages)
        assert [tensor.data_ptr() for tensor in tensors] == addresses
        assert all(os.stat(file).st_blocks == 0 for file in files)
        for tensor, view, before in zip(tensors, views, expected, strict=True):
            assert torch.equal(tensor, before)
            tensor[0], before[0] = 7 + turn, 7 + turn
            assert torch.equal(view, before[before.numel() // 3 :])
        if turn % 2:
            give_back(storages)  # once more does nothing
        move_to_shared(storages)


def test_memory_that_somebody_else_has_shared_stays() -> None:
    tensor = torch.ones(10)
    tensor.share_memory_()
    give_back([tensor.untyped_storage()])
    assert is_shared(tensor.untyped_storage())
    assert tensor.sum() == 10


SMALL = """
import os, sys, torch
from ckpt_worker import UnsupportedError
from ckpt_worker.recording import shared_memory
from ckpt_worker.recording.shared_memory import is_shared, move_to_shared
checked, sizes = sys.argv[1] == "checked", [int(size) << 20 for size in sys.argv[2:]]
if not checked:
    shared_memory._DIRECTORY = "/nowhere"  # its room cannot be learnt: the failure comes midway
used = lambda: (lambda s: (s.f_blocks - s.f_bfree) * s.f_frsize)(os.statvfs("/dev/shm"))
tensors = [torch.randint(0, 255, (size,), dtype=torch.uint8) for size in sizes]
expected = [tensor.clone() for tensor in tensors]
storages = [tensor.untyped_storage() for tensor in tensors]
before = used()
for _ in range(2):
    try:
        move_to_shared(storages)
        raise SystemExit("moved")
    except UnsupportedError as error:
        print(error)
    assert used() == before, (used(), before)
    assert not any(is_shared(storage) for storage in storages)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected))
# What fits continues to fit, in any order.
for index in reversed(range(len(sizes))):
    move_to_shared(storages[index:index + 1])
    assert torch.equal(tensors[index], expected[index])
    shared_memory.give_back(storages)
    assert used() == before
"""


@pytest.mark.parametrize("how", ["checked", "midway"])
@pytest.mark.parametrize("sizes", [(20, 20, 20, 20, 20), (1, 62, 5), (63, 2)])
def test_what_does_not_fit_into_dev_shm_stays_private_entirely(how: str, sizes: tuple[int, ...]) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("no mount namespaces for this user")
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", SMALL, how, *map(str, sizes)]
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("64 MiB free" in done.stdout) == (how == "checked"), done.stdout
