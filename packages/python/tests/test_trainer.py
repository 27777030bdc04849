"""The trainer's side: what is published, and the effect of ranks that misbehave or disappear."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_worker.errors import LayoutError, PeerLostError, ProtocolError, SilenceError, UnsupportedError, WorkerError
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.trainer import Publication, publish, serve


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "bf16": torch.randn(17, 33, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(-5, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "fp8": torch.randn(64, generator=generator).to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
    }


class FakeRank:
    """A rank's connection, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))

    def __enter__(self) -> FakeRank:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, **message: Any) -> None:
        body = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._read(4))
        message: dict[str, Any] = json.loads(self._read(length))
        return message

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the trainer closed the connection"
            data += part
        return data


def shared_names() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith(f"ckpt-trainer-{os.getpid()}-")}


def published_bytes(publication: Publication, name: str) -> bytes:
    tensor = next(tensor for tensor in publication.tensors if tensor.name == name)
    with open(Path("/dev/shm") / publication.memories[tensor.memory]["name"], "rb") as file:
        file.seek(tensor.offset)
        return file.read(tensor.size)


def test_cpu_tensors_go_through_one_piece_of_shared_memory() -> None:
    wanted = tensors()
    with publish(wanted) as publication:
        assert [t.name for t in publication.tensors] == list(wanted)
        assert [t.dtype for t in publication.tensors] == ["BF16", "I64", "F32", "F8_E4M3", "F32"]
        assert [t.shape for t in publication.tensors] == [[17, 33], [], [0, 4], [64], [3]]
        for name, tensor in wanted.items():
            assert published_bytes(publication, name) == bytes(flat_bytes(tensor).tolist()), name
        (memory,) = publication.memories
        assert stat.S_IMODE(os.stat(f"/dev/shm/{memory['name']}").st_mode) == 0o600
        assert publication.size == sum(t.numel() * t.element_size() for t in wanted.values())
    assert shared_names() == set()
    publication.close()


def test_what_cannot_be_published_is_named() -> None:
    grid = torch.arange(12).reshape(3, 4)
    with pytest.raises(LayoutError, match=r"'turned'.*make_contiguous=True") as caught:
        publish({"fine": grid, "turned": grid.t()})
    assert caught.value.tensor == "turned"
    with publish({"turned": grid.t()}, make_contiguous=True) as publication:
        assert published_bytes(publication, "turned") == bytes(flat_bytes(grid.t().contiguous()).tolist())
    with pytest.raises(LayoutError, match=r"'complex'.*torch\.complex128"):
        publish({"complex": torch.ones(2, dtype=torch.complex128)})
    with pytest.raises(LayoutError, match="'sparse'"):
        publish({"sparse": torch.ones(2, 2).to_sparse()})
    with pytest.raises(LayoutError, match="'meta'"):
        publish({"meta": torch.empty(2, device="meta")})
    assert shared_names() == set()


def test_the_socket_is_the_users_alone_and_goes_with_the_offer(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    with serve(tensors(), str(path)) as served:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(FileExistsError, match="another trainer"):
            serve(tensors(), str(path))
        with pytest.raises(SilenceError, match="0 of 1 ranks"):
            served.wait(0.05)
    assert not path.exists()
    assert shared_names() == set()
    path.write_text("a file")
    with pytest.raises(FileExistsError, match="not a socket"):
        serve(tensors(), str(path))
    path.unlink()
    # A dead trainer's socket is replaced.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serve(tensors(), str(path)).close()
    assert shared_names() == set()


def test_tensors_are_kept_until_every_rank_has_registered_them(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    with serve(tensors(), str(path), ranks=2) as served:
        for count in (1, 2):
            with FakeRank(path) as rank:
                rank.send(type="hello", protocol=1)
                description = rank.receive()
                assert description["type"] == "tensors"
                assert [row[0] for row in description["tensors"]] == list(tensors())
                rank.send(type="copied")
                assert rank.receive() == {"type": "kept"}
                with pytest.raises(SilenceError):
                    served.wait(0.05)
                assert len(shared_names()) == 1
                rank.send(type="registered")
                if count == 2:
                    served.wait(10)
        assert served.registered == 2


def test_ranks_that_fail_or_go_away_are_told_and_may_come_again(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    with serve(tensors(), str(path), timeout=0.5) as served:
        with FakeRank(path) as rank:
            rank.send(type="hello", protocol=2)
            assert "version 2" in rank.receive()["message"]
            with pytest.raises(ProtocolError, match="version 2"):
                served.wait(10)

        with FakeRank(path) as rank:
            rank.send(type="hello", protocol=1)
            rank.receive()
            rank.send(type="failed", message="out of memory")
            with pytest.raises(WorkerError, match="out of memory"):
                served.wait(10)

        with FakeRank(path):
            pass  # somebody who only looks is no failure
        with FakeRank(path) as rank:
            rank.send(type="hello", protocol=1)
            rank.receive()
        with pytest.raises(PeerLostError, match="before 'copied'"):
            served.wait(10)

        with FakeRank(path) as rank:
            rank.socket.sendall(struct.pack("<I", 1 << 30))
            with pytest.raises(ProtocolError, match="1073741824"):
                served.wait(10)

        with FakeRank(path), pytest.raises(SilenceError, match="hello"):
            served.wait(10)

        with FakeRank(path) as rank:
            rank.send(type="hello", protocol=1)
            rank.receive()
            rank.send(type="copied")
            rank.receive()
            rank.send(type="registered")
            served.wait(10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_gpu_tensors_of_one_allocation_share_a_handle() -> None:
    whole = torch.arange(1 << 20, device="cuda:0")
    parts = {"low": whole[:1000], "high": whole[1000:], "host": torch.ones(3)}
    with publish(parts) as publication:
        assert sorted(memory["kind"] for memory in publication.memories) == ["cuda", "shared"]
        low, high, _ = publication.tensors
        assert (low.memory, high.offset - low.offset) == (high.memory, 8000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA driver")
def test_gpu_tensors_without_a_driver_are_refused_by_name() -> None:
    from ckpt_worker.loading import cuda_driver

    with pytest.raises(UnsupportedError, match="sharing a CUDA tensor needs the CUDA driver"):
        cuda_driver.load_driver("sharing a CUDA tensor")
