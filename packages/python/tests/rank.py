"""A rank written for tests: it binds a real socket and puts bytes in a real ring in /dev/shm."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import torch
import zmq

from ckpt_worker.loading.digest import digest as torch_digest
from ckpt_worker.loading.digest import flat_bytes, reference_digest
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES

TOKEN = "token-of-the-run"
ALIGNMENT = 256
Result = TypeVar("Result")


def in_thread(call: Callable[[], Result]) -> Future[Result]:
    """Runs ``call`` while the test continues; the thread ends with it."""
    future: Future[Result] = Future()

    def body() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


class Rank:
    """One connection to a worker."""

    def __init__(self, ring_bytes: int = 1 << 20, offset: int = 0) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ckpt-test-")
        self.address = f"ipc://{self._directory.name}/worker.sock"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVTIMEO, 10_000)
        self._socket.bind(self.address)
        self.ring_name = f"ckpt-test-{uuid.uuid4().hex}"
        self.ring_path = Path("/dev/shm") / self.ring_name
        self.ring_path.write_bytes(bytes(offset + ring_bytes))
        self.ring_bytes, self._offset = ring_bytes, offset
        self._seq = 0

    def __enter__(self) -> Rank:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.die()
        self.ring_path.unlink(missing_ok=True)
        self._directory.cleanup()

    def die(self) -> None:
        """Closes the connection without a message."""
        self._socket.close()
        self._context.term()

    def receive(self) -> dict[str, Any]:
        message = msgspec.msgpack.decode(self._socket.recv())
        assert isinstance(message, dict)
        return message

    def send_frame(self, frame: bytes) -> None:
        self._socket.send(frame)

    def send(self, kind: str, **fields: Any) -> int:
        self._seq += 1
        self.send_frame(msgspec.msgpack.encode({"type": kind, "seq": self._seq, "epoch": 1, **fields}))
        return self._seq

    def call(self, kind: str, **fields: Any) -> dict[str, Any]:
        seq = self.send(kind, **fields)
        answer = self.receive()
        assert answer["seq"] == seq
        return answer

    def attach(self, tensors: Mapping[str, torch.Tensor], **fields: Any) -> dict[str, Any]:
        hello = self.receive()
        assert hello["type"] == "hello"
        assert hello["token"] == TOKEN
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        ring = {"kind": "shm", "name": self.ring_name, "offset": self._offset, "bytes": self.ring_bytes}
        return self.call("attach", **{"token": TOKEN, "ring": ring, "tensors": len(tensors), "bytes": total, **fields})

    def put(self, tensors: Mapping[str, torch.Tensor], *, digests: bool = True, start: int = 0) -> list[list[Any]]:
        """Writes tensors into the ring; returns their entries for a bucket."""
        entries: list[list[Any]] = []
        with self.ring_path.open("r+b") as file:
            for name, tensor in tensors.items():
                data = flat_bytes(tensor.contiguous()).numpy().tobytes()
                file.seek(self._offset + start)
                file.write(data)
                digest = _digest(tensor, data).to_bytes(8, "little") if digests else None
                entries.append([name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), start, len(data), digest])
                start += -(-len(data) // ALIGNMENT) * ALIGNMENT
        return entries

    def update(self, tensors: Mapping[str, torch.Tensor], version: str, per_bucket: int = 3) -> None:
        """A complete successful update."""
        assert self.attach(tensors)["type"] == "ok"
        names = list(tensors)
        for index, first in enumerate(range(0, len(names), per_bucket)):
            some = {name: tensors[name] for name in names[first : first + per_bucket]}
            answer = self.call("bucket", bucket=index, tensors=self.put(some))
            assert answer["type"] == "ok", answer
            assert answer["reloadMs"] >= 0
        for answer in (self.call("release"), self.call("commit", version=version)):
            assert answer["type"] == "ok", answer


def _digest(tensor: torch.Tensor, data: bytes) -> int:
    # The plain formula takes a second for each MiB: large tensors use the fast implementation, which is tested against it.
    return reference_digest(data) if len(data) <= 1 << 16 else torch_digest(tensor.contiguous())


def mapped(name: str) -> bool:
    """Returns True if this process has the shared memory mapped."""
    return name in Path("/proc/self/maps").read_text()


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
