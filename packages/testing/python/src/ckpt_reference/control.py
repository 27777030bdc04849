"""The engine's control socket: HTTP on a unix socket, as described in docs/worker-protocol.md."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import stat
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Annotated, Any, Final

import msgspec

from ckpt_worker.errors import AbortedError

from .engine import ReferenceEngine

#: Largest request body in bytes: a list of some hundred thousand paths.
_MAX_BODY: Final = 64 * 1024 * 1024


class UpdateRequest(msgspec.Struct, rename="camel"):
    """Body of ``POST /update``."""

    address: str
    token: str
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)]


class VerifyRequest(msgspec.Struct):
    """Body of ``POST /verify``."""

    files: list[str]


class _BadRequestError(Exception):
    pass


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves one engine. Only the user may open the socket (mode 0600)."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: str, engine: ReferenceEngine) -> None:
        self.engine = engine
        self._path = path
        _remove_stale(path)
        # Under a temporary name until it listens, so that every process that sees the path can connect.
        unready = f"{path}.{os.getpid()}"
        previous = os.umask(0o177)
        try:
            super().__init__(unready, _Handler)
            self._inode = os.stat(unready).st_ino
            os.rename(unready, path)
        finally:
            os.umask(previous)

    def server_close(self) -> None:
        """Closes the socket and removes its file, unless a different server has taken the path since."""
        super().server_close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that disconnected; everything else was answered already."""


def _remove_stale(path: str) -> None:
    """Removes the socket file of a dead server. Raises OSError if something else is in the way."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
        raise FileExistsError(f"another engine listens on {path}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ControlServer
    #: Set by the call that ends the server.
    ends = False

    def address_string(self) -> str:
        """Clients of a unix socket have no address."""
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because callers see the answer."""

    def do_GET(self) -> None:
        self._route({"/health": self._health, "/digests": self._digests})

    def do_POST(self) -> None:
        try:
            self._route({"/update": self._update, "/verify": self._verify, "/poison": self._poison, "/exit": self._exit})
        finally:
            if self.ends:
                # Only now, because the process may end as soon as the loop has ended, and its answer must be sent by then. In a
                # separate thread, because no serving thread should wait for the loop.
                threading.Thread(target=self.server.shutdown, daemon=True).start()

    def _route(self, routes: dict[str, Callable[[bytes], Any]]) -> None:
        try:
            body = self._body()
            route = routes.get(self.path.partition("?")[0])
            if route is None:
                self._answer(404, _error("NotFound", f"no {self.command} {self.path}"))
                return
            self._answer(200, route(body))
        except _BadRequestError as error:
            self.close_connection = True
            self._answer(400, _error("BadRequest", str(error)))
        except AbortedError as error:
            self._answer(409, _error(error.code, str(error)))
        except Exception as error:
            kind = getattr(error, "code", type(error).__name__)
            text = "".join(traceback.format_exception(error))
            self._answer(500, _error(str(kind), str(error), text))
            traceback.clear_frames(error.__traceback__)

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError as error:
            raise _BadRequestError("Content-Length is not a number") from error
        if "Transfer-Encoding" in self.headers:
            raise _BadRequestError("a body needs a Content-Length")
        if not 0 <= length <= _MAX_BODY:
            raise _BadRequestError(f"a body of {length} bytes is over the limit of {_MAX_BODY}")
        return self.rfile.read(length)

    def _answer(self, status: int, value: Any) -> None:
        data = msgspec.json.encode(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _health(self, _: bytes) -> Any:
        engine = self.server.engine
        return {"device": engine.uuid, "version": engine.version, "dirty": engine.dirty}

    def _digests(self, _: bytes) -> Any:
        return {"digests": {name: f"{value:016x}" for name, value in self.server.engine.digests().items()}}

    def _update(self, body: bytes) -> Any:
        request = _parse(body, UpdateRequest)
        result = self.server.engine.update(request.address, request.token, request.timeout_ms / 1000)
        return {"version": result.version}

    def _verify(self, body: bytes) -> Any:
        return self.server.engine.verify(_parse(body, VerifyRequest).files)

    def _poison(self, _: bytes) -> Any:
        self.server.engine.poison()
        return {}

    def _exit(self, _: bytes) -> Any:
        self.close_connection = True
        self.ends = True
        return {}


def _error(kind: str, message: str, trace: str | None = None) -> dict[str, Any]:
    inner = {"type": kind, "message": message}
    return {"error": inner if trace is None else {**inner, "traceback": trace}}


def _parse(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _BadRequestError(str(error)) from error
