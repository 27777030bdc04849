"""Calls of an engine over HTTP, and the HTTP interface of a parameter server."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import socketserver
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import urlsplit

from .ps import Metas, ParameterServer

#: Longest body of a request: lists of files, or metas.
_MAX_BODY: Final = 256 << 20


class HttpError(RuntimeError):
    """An engine answered a call with an error."""


def request_inference_to_update(url: str, socket_paths: dict[str, str], timeout: float = 300.0, uds: str | None = None) -> None:
    """Tells an engine's workers to take an update, and waits for their end.

    :param url: such as ``http://localhost:8000/collective_rpc``.
    :param socket_paths: addresses of ranks by device.
    :param timeout: in seconds.
    :param uds: unix socket of the engine, instead of the host in ``url``.
    :raises HttpError: if the engine answers with an error.
    :raises OSError: if it cannot be reached.
    """
    parts = urlsplit(url)
    if uds is not None:
        connection: http.client.HTTPConnection = _UnixConnection(uds, timeout)
    elif parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=timeout)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    body = {"method": "update_weights_from_ipc", "args": [socket_paths], "timeout": timeout}
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(4000).decode(errors="replace")
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise HttpError(f"POST {url} answered {answer.status}: {text.strip()}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class HttpServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves checkpoint-engine's HTTP interface at a unix socket that only the user may enter."""

    daemon_threads = True

    def __init__(self, path: str, ps: ParameterServer) -> None:
        self.ps = ps
        before = os.umask(0o177)
        try:
            super().__init__(path, _Handler)
        finally:
            os.umask(before)

    def server_close(self) -> None:
        """Closes the socket and removes it."""
        super().server_close()
        if isinstance(self.server_address, str) and os.path.exists(self.server_address):
            os.unlink(self.server_address)


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: failures are in the answers."""

    def _answer(self, method: str) -> None:
        try:
            length = int(self.headers.get("content-length") or 0)
            if not 0 <= length <= _MAX_BODY:
                return self._send(413, {"detail": f"the body has {length} bytes, more than {_MAX_BODY}"})
            body = json.loads(self.rfile.read(length) or b"{}")
            for wanted, pattern, handle in _ROUTES:
                match = re.fullmatch(pattern, urlsplit(self.path).path)
                if match is not None and wanted == method:
                    return self._send(200, handle(self.server.ps, body, *match.groups()))
            self._send(404, {"detail": f"there is no {method} {self.path}"})
        except (KeyError, TypeError, ValueError) as error:
            self._send(422, {"detail": f"the body is not as expected: {type(error).__name__}: {error}"})
        except Exception as error:
            self._send(500, {"detail": str(error)})
        return None

    def _send(self, status: int, value: Any) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _register(ps: ParameterServer, body: Any, name: str) -> None:
    ps.register_checkpoint(name, files=[str(file) for file in body["files"]])


def _update(ps: ParameterServer, body: Any, name: str) -> None:
    url, group = body.get("update_url"), list(body.get("inference_group_ranks") or [])

    def request(sockets: list[tuple[str, str]]) -> None:
        if url is not None:
            chosen = [sockets[rank] for rank in group] if group else sockets
            request_inference_to_update(url, dict(chosen), float(body.get("timeout", 300)), body.get("uds"))

    ps.update(name, request, ranks=list(body.get("ranks") or []))


def _metas(ps: ParameterServer, body: Any) -> dict[str, str]:
    return {"metas": base64.b64encode(ps.get_metas().data).decode()}


def _load_metas(ps: ParameterServer, body: Any) -> None:
    ps.load_metas(Metas(base64.b64decode(body["metas"], validate=True)))


_CHECKPOINT: Final = r"/v1/checkpoints/([^/]+)"
_ROUTES: Final[list[tuple[str, str, Callable[..., Any]]]] = [
    ("POST", f"{_CHECKPOINT}/files", _register),
    ("DELETE", _CHECKPOINT, lambda ps, _, name: ps.unregister_checkpoint(name)),
    ("POST", f"{_CHECKPOINT}/gather-metas", lambda ps, _, name: ps.gather_metas(name)),
    ("POST", f"{_CHECKPOINT}/update", _update),
    ("GET", "/v1/metas", _metas),
    ("POST", "/v1/metas", _load_metas),
    ("GET", "/v1/healthz", lambda ps, _: None),
]
