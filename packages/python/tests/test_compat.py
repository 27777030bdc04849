"""checkpoint-engine's interface: its calls, its command line, its HTTP routes. What needs its worker is tested on GPUs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckpt import CkptError
from ckpt.compat.checkpoint_engine import Metas, ParameterServer
from ckpt.compat.checkpoint_engine.api import _UnixConnection
from ckpt.compat.checkpoint_engine.distributed import barrier, is_initialized, use_backend
from client_parts import until, weights

pytestmark = pytest.mark.usefixtures("rank_program")


@pytest.fixture
def ps(monkeypatch: pytest.MonkeyPatch, rank_program: Path) -> Iterator[ParameterServer]:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29711"}.items():
        monkeypatch.setenv(name, value)
    with ParameterServer(auto_pg=True) as server:
        yield server


def test_its_calls_do_what_they_do_there(ps: ParameterServer, tmp_path: Path) -> None:
    save_file({"in.file": torch.ones(3)}, tmp_path / "a.safetensors")
    ps.init_process_group()
    barrier()
    ps.store_based_barrier()
    with pytest.raises(CkptError, match="no metas"):
        ps.get_metas()
    ps.gather_metas("both")  # nobody has it: metas may be loaded
    ps.register_checkpoint("both", files=[str(tmp_path / "a.safetensors")], named_tensors=weights(1))
    ps.gather_metas("both")
    metas = ps.get_metas()
    assert ps.server.get_metas("both").tensors == 1 + len(weights(1))
    again = pickle.loads(pickle.dumps(metas))  # noqa: S301
    ps.load_metas(again)
    assert isinstance(again, Metas)
    with pytest.raises(CkptError, match="CUDA memory"):
        ps.update("both", lambda sockets: None)
    assert not is_initialized()
    ps.unregister_checkpoint("both")
    ps.unregister_checkpoint("both")
    for name in ("pooled", "pooled again"):
        ps.register_checkpoint(name, files=[str(tmp_path / "a.safetensors")], use_shared_memory_pool=True)
        ps.unregister_checkpoint(name, force=name == "pooled again")
    assert (tmp_path / "a.safetensors").exists()
    use_backend(None)
    with pytest.raises(ValueError, match="vllm_nccl"):
        use_backend("vllm_nccl")


def test_its_command_line_serves_its_routes(tmp_path: Path, rank_program: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors")
    path = tmp_path / "ps.sock"
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29712"}
    command = [sys.executable, "-m", "ckpt.compat.checkpoint_engine", "--uds", str(path)]
    process = subprocess.Popen(command, env=os.environ | environment)

    def call(method: str, route: str, body: Any = None) -> tuple[int, Any]:
        connection: http.client.HTTPConnection = _UnixConnection(str(path), 60)
        with contextlib.closing(connection):
            connection.request(method, route, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None

    try:
        until(path.exists, 60)
        assert path.stat().st_mode & 0o777 == 0o600
        assert call("GET", "/v1/healthz") == (200, None)
        files = {"files": [str(tmp_path / "a.safetensors")]}
        assert call("POST", "/v1/checkpoints/a/files", files) == (200, None)
        status, answer = call("POST", "/v1/checkpoints/a/files", files)
        assert (status, "already" in answer["detail"]) == (500, True), answer
        assert call("POST", "/v1/checkpoints/a/gather-metas") == (200, None)
        status, metas = call("GET", "/v1/metas")
        assert (status, call("POST", "/v1/metas", metas)) == (200, (200, None))
        status, answer = call("POST", "/v1/checkpoints/a/update", {"update_url": "http://127.0.0.1:1/x", "timeout": 1})
        assert (status, "CUDA memory" in answer["detail"]) == (500, True), answer
        assert call("POST", "/v1/checkpoints/a/files", {})[0] == 422
        assert call("GET", "/v1/nothing")[0] == 404
        assert call("DELETE", "/v1/checkpoints/a") == (200, None)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not path.exists()
