from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ckpt_worker.errors import RingError, UnsupportedError
from ckpt_worker.loading.ring import open_ring
from ckpt_worker.protocol.messages import CudaRing, ShmRing
from rank import descriptors, mapped

CPU = torch.device("cpu")


@pytest.fixture
def shm() -> Iterator[Path]:
    path = Path(f"/dev/shm/ckpt-test-ring-{os.getpid()}")
    path.write_bytes(bytes(range(256)) * 32)
    yield path
    path.unlink()


def test_maps_without_a_copy_and_lets_go(shm: Path) -> None:
    before = descriptors()
    ring = open_ring(ShmRing(shm.name, 100, 5000), CPU)
    assert ring.data.dtype == torch.uint8
    assert ring.data[:3].tolist() == [100, 101, 102]
    assert ring.data.numel() == 5000
    with shm.open("r+b") as file:
        file.seek(100)
        file.write(b"\x07")
    assert ring.data[0] == 7
    assert mapped(shm.name)
    assert descriptors() <= before + 1
    ring.close()
    ring.close()
    assert not mapped(shm.name)
    assert descriptors() == before
    with pytest.raises(RingError, match="closed"):
        _ = ring.data


def test_says_so_when_a_tensor_over_it_lives_on(shm: Path) -> None:
    ring = open_ring(ShmRing(shm.name, 0, 4096), CPU)
    kept = ring.data[8:16]
    with pytest.raises(RingError, match="kept a tensor"):
        ring.close()
    assert kept.tolist() == list(range(8, 16))  # the memory is still there
    del kept
    assert not mapped(shm.name)


def test_an_empty_ring_maps_nothing(shm: Path) -> None:
    ring = open_ring(ShmRing(shm.name, 0, 0), CPU)
    assert ring.data.numel() == 0
    ring.close()


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/b", ".", "..", "a\0b"])
def test_the_name_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(RingError, match="plain file name"):
        open_ring(ShmRing(name, 0, 16), CPU)


@pytest.mark.parametrize(("offset", "size"), [(0, 8193), (8192, 1), (1 << 52, 16), (0, 1 << 52)])
def test_the_ring_lies_inside_the_file(shm: Path, offset: int, size: int) -> None:
    with pytest.raises(RingError, match="has 8192 bytes"):
        open_ring(ShmRing(shm.name, offset, size), CPU)


def test_only_regular_files_are_opened(shm: Path) -> None:
    link, fifo = shm.with_name(shm.name + "-link"), shm.with_name(shm.name + "-fifo")
    link.symlink_to(shm)
    os.mkfifo(fifo)
    try:
        with pytest.raises(RingError, match="cannot open"):
            open_ring(ShmRing(link.name, 0, 16), CPU)
        with pytest.raises(RingError, match="not a regular file"):
            open_ring(ShmRing(fifo.name, 0, 16), CPU)
        with pytest.raises(RingError, match="cannot open"):
            open_ring(ShmRing(shm.name + "-missing", 0, 16), CPU)
    finally:
        link.unlink()
        fifo.unlink()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_cuda_ring_without_cuda_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="CUDA"):
        open_ring(CudaRing(b"h" * 64, 0, "GPU-1", 16), CPU)
