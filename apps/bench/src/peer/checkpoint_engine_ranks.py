"""One rank of checkpoint-engine, driven by JSON lines on stdin, answering with one JSON line each on stdout.

Environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Argument: the control socket of this rank's engine worker, or the URL of
the vLLM server whose workers all ranks update together. Times are in milliseconds and those of this rank's call alone.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import socket
import sys
import time
import traceback
import urllib.parse
from typing import Any

import torch
import torch.distributed
from loguru import logger

logger.remove()
logger.add(sys.stderr, level="WARNING")

from checkpoint_engine.ps import ParameterServer  # noqa: E402 (it logs while it is imported)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=300)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(300)
        self.sock.connect(self._path)


class Rank:
    """The calls that stdin asks for."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._request = self._request_server if engine.startswith("http://") else self._request_worker
        self._server = ParameterServer(auto_pg=True)
        self._uuid = self._server._device_uuid

    def register(self, name: str, files: list[str], inplace: bool) -> None:
        """With ``inplace`` the files are removed, as is this system's way: give it links."""
        self._server.register_checkpoint(name, files=files, use_inplace_pin_memory=inplace)

    def unregister(self, name: str) -> None:
        """Gives the memory back."""
        self._server.unregister_checkpoint(name)

    def gather(self, name: str) -> None:
        """Makes the communicator where there is none."""
        self._server.gather_metas(name)

    def keep_communicator(self) -> None:
        """What ``auto_pg=False`` stands for: the caller makes the process group, once."""
        self._server._auto_pg = False
        if not torch.distributed.is_initialized():
            self._server.init_process_group()

    def bucket(self, gigabytes: float | None) -> None:
        """Largest bucket; the default where it is None."""
        if gigabytes is None:
            os.environ.pop("PS_MAX_BUCKET_SIZE_GB", None)
        else:
            os.environ["PS_MAX_BUCKET_SIZE_GB"] = str(gigabytes)

    def update(self, name: str) -> dict[str, int]:
        """One update of the worker on this rank's GPU."""
        torch.cuda.reset_peak_memory_stats()
        self._server.update(name, self._request)
        return {"peakDeviceBytes": torch.cuda.max_memory_allocated()}

    def _request_server(self, sockets: list[tuple[str, str]]) -> None:
        """One call for all workers of a vLLM server, made by the first rank."""
        if os.environ["RANK"] != "0":
            return
        body = json.dumps({"method": "update_weights_from_ipc", "args": [dict(sockets)], "timeout": 300})
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self._engine).netloc, timeout=300)
        self._post(connection, "/collective_rpc", body, "the vLLM server")

    def _request_worker(self, sockets: list[tuple[str, str]]) -> None:
        body = json.dumps({"address": dict(sockets)[self._uuid], "token": "-", "timeoutMs": 120_000})
        self._post(_UnixConnection(self._engine), "/update", body, "the engine worker")

    def _post(self, connection: http.client.HTTPConnection, path: str, body: str, peer: str) -> None:
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise RuntimeError(f"{peer} answered {answer.status}: {text}")
        finally:
            connection.close()


def main() -> None:
    """Serves until stdin ends."""
    rank = Rank(sys.argv[1])
    version = importlib.metadata.version("checkpoint-engine")
    print(json.dumps({"ready": True, "version": version}), flush=True)
    for line in sys.stdin:
        call: dict[str, Any] = json.loads(line)
        try:
            started = time.perf_counter()
            value = getattr(rank, call["call"])(**call.get("arguments", {}))
            milliseconds = (time.perf_counter() - started) * 1000
            print(json.dumps({"milliseconds": milliseconds, **(value or {})}), flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}), flush=True)
    os._exit(0)  # a communicator that peers have left must not keep the process


if __name__ == "__main__":
    main()
