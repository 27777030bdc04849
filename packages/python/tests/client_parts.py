"""Parts of tests of the client: engine workers, programs that use ``ckpt``, and what processes leave behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ckpt_worker import digest


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class EngineWorker:
    """The reference engine of torch, in a process."""

    def __init__(self, path: str, device: str) -> None:
        self.path = path
        self.process = subprocess.Popen([sys.executable, "-m", "ckpt_reference", "--control", path, "--device", device])

    def get(self, path: str) -> Any:
        connection = _UnixConnection(self.path)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

    @property
    def digests(self) -> dict[str, str]:
        """Digests of all parameters, by name."""
        found: dict[str, str] = self.get("/digests")["digests"]
        return found

    @property
    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)


@contextlib.contextmanager
def engine_worker(device: str = "cpu") -> Iterator[EngineWorker]:
    """Starts an engine worker; updates wait until it answers."""
    with tempfile.TemporaryDirectory(prefix="ckpt-test-") as directory:
        worker = EngineWorker(f"{directory}/engine.sock", device)
        try:
            yield worker
        finally:
            worker.process.terminate()
            worker.process.wait(20)


def weights(step: int, rows: int = 16) -> dict[str, torch.Tensor]:
    """A model's weights after a step, in several dtypes."""
    generator = torch.Generator().manual_seed(step)
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float8_e4m3fn]
    named = {
        f"model.layers.{i}.weight": torch.randn(rows + i, 32, generator=generator).to(dtypes[i % len(dtypes)]) for i in range(6)
    }
    return named | {"scale": torch.randn((), generator=generator)}


def digests_of(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{digest(tensor):016x}" for name, tensor in tensors.items()}


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: not what it maps together with others."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024


def left_behind(*pids: int) -> list[str]:
    """Shared memory and directories that carry one of these process ids in their name."""
    name = re.compile(rf"ckpt-(?:[a-z]+-)?(?:{'|'.join(map(str, pids))})-")
    roots = {"/dev/shm", tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "/tmp"}
    return sorted(f"{root}/{entry}" for root in roots for entry in os.listdir(root) if name.match(entry))


def is_running(pid: int) -> bool:
    """False for a process that has ended, even if nobody has waited for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for a condition. Raises after that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def run_program(
    text: str, *arguments: str, through: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a Python program that uses ``ckpt``."""
    command = [*(through or (sys.executable,)), "-c", text, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
