"""Serves a trainer's tensors at a unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from ..errors import AbortedError, PeerLostError, ProtocolError, SilenceError, WorkerError
from .publication import Publication, publish

#: Version of the protocol; both sides send theirs.
PROTOCOL: Final = 1
#: Maximum length of a rank's frame, in bytes.
_MAX_FRAME: Final = 1 << 20
_PREFIX: Final = struct.Struct("<I")
#: Interval in seconds at which the serving thread checks if it should end.
_TICK: Final = 0.2


class Served:
    """Tensors offered at a unix socket. They are kept until the expected number of ranks have registered them."""

    def __init__(self, publication: Publication, path: str, ranks: int, timeout: float) -> None:
        self.publication = publication
        self._path, self._expected, self._timeout = path, ranks, timeout
        self._registered = 0
        self._error: WorkerError | None = None
        self._closed = False
        self._process = os.getpid()
        self._change = threading.Condition()
        self._listener, self._inode = _listen(path)
        self._listener.settimeout(_TICK)  # here: the thread may only start once the socket is closed again
        self._threads = [threading.Thread(target=self._accept, name="ckpt-trainer", daemon=True)]
        self._threads[0].start()

    @property
    def registered(self) -> int:
        """Number of ranks that have registered the tensors so far."""
        return self._registered

    def wait(self, timeout: float | None = None) -> None:
        """Returns once all expected ranks have registered the tensors; these may then be written to or freed.

        :param timeout: in seconds; None waits without a limit.
        :raises SilenceError: after the timeout; the tensors stay on offer.
        :raises WorkerError: the first failure that a rank reported, or PeerLostError for a rank that disconnected. That rank
        may try
            again: a later call waits for it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._change:
            while self._registered < self._expected:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                if self._closed:
                    raise AbortedError("the tensors are not on offer any more")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    done = f"{self._registered} of {self._expected} ranks have registered the tensors at {self._path}"
                    raise SilenceError(f"{done} after {timeout} s")
                self._change.wait(left)

    def close(self) -> None:
        """Withdraws the offer and releases the tensors; calling it again does nothing.

        In a process forked since (a data loader's worker), it does nothing either, because the offer belongs to the parent.
        """
        if os.getpid() != self._process:
            return  # the lock must not be taken either: a thread that is not in this process may hold it
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.notify_all()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        for thread in self._threads:
            thread.join()
        self.publication.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed
            thread = threading.Thread(target=self._serve, args=(connection,), name="ckpt-trainer-rank", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            rank = _Channel(connection, self._timeout, lambda: self._closed)
            try:
                self._talk(rank)
            except WorkerError as error:
                if not rank.heard and isinstance(error, PeerLostError):
                    return  # a connection that only checked for a listener
                with contextlib.suppress(OSError):
                    _send(connection, {"type": "error", "message": str(error)})
                with self._change:
                    self._error = self._error or error
                    self._change.notify_all()

    def _talk(self, rank: _Channel) -> None:
        hello = rank.expect("hello")
        if hello.get("protocol") != PROTOCOL:
            raise ProtocolError(
                f"the rank uses version {hello.get('protocol')!r} of the protocol, but this trainer version {PROTOCOL}"
            )
        rank.send_bytes(self.publication.describe())
        rank.expect("copied")
        rank.send({"type": "kept"})
        rank.expect("registered")
        with self._change:
            self._registered += 1
            self._change.notify_all()


def serve(
    tensors: Mapping[str, Any],
    path: str,
    *,
    ranks: int = 1,
    make_contiguous: bool = False,
    timeout: float = 600.0,
) -> Served:
    """Publishes tensors and offers them at a unix socket that only this user may enter, from a separate thread.

    :param tensors: a state dictionary; see :func:`publish` for the published part.
    :param path: of the socket, at most 107 bytes; a dead trainer's is replaced.
    :param ranks: number of ranks that will register the tensors. Each takes all of them: ranks that share need a socket each.
    :param timeout: maximum silence of a registering rank, in seconds.
    :raises LayoutError: see :func:`publish`, also for UnsupportedError and `make_contiguous`.
    :raises OSError: the socket cannot be created, or another trainer listens there.
    """
    publication = publish(tensors, make_contiguous=make_contiguous)
    try:
        return Served(publication, path, ranks, timeout)
    except BaseException:
        publication.close()
        raise


class _Channel:
    """Frames of a 4-byte little-endian length and JSON."""

    def __init__(self, connection: socket.socket, timeout: float, ended: Callable[[], bool]) -> None:
        self._connection, self._timeout, self._ended = connection, timeout, ended
        #: True if the rank has sent anything.
        self.heard = False
        connection.settimeout(_TICK)

    def send(self, message: dict[str, Any]) -> None:
        self.send_bytes(json.dumps(message).encode())

    def send_bytes(self, body: bytes) -> None:
        self._connection.settimeout(self._timeout)
        try:
            self._connection.sendall(_PREFIX.pack(len(body)) + body)
        except OSError as error:
            raise PeerLostError(f"the rank disconnected: {error}") from error
        finally:
            self._connection.settimeout(_TICK)

    def expect(self, kind: str) -> dict[str, Any]:
        (length,) = _PREFIX.unpack(self._read(_PREFIX.size, kind))
        if length > _MAX_FRAME:
            raise ProtocolError(f"the rank sent a frame of {length} bytes")
        try:
            message = json.loads(self._read(length, kind))
        except ValueError as error:
            raise ProtocolError(f"the rank sent a frame that is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise ProtocolError("the rank sent a frame that is not a message")
        if message.get("type") == "failed":
            raise WorkerError(f"the rank could not register the tensors: {message.get('message')}")
        if message.get("type") != kind:
            raise ProtocolError(f"expected {kind!r} of the rank, got {message.get('type')!r}")
        return message

    def _read(self, size: int, kind: str) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + self._timeout
        while len(data) < size:
            if self._ended():
                raise AbortedError("the trainer takes the tensors off offer")
            try:
                part = self._connection.recv(size - len(data))
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                raise SilenceError(f"the rank sent no {kind!r} within {self._timeout} s") from None
            except OSError as error:
                raise PeerLostError(f"the rank disconnected: {error}") from error
            if not part:
                raise PeerLostError(f"the rank closed the connection before {kind!r}")
            self.heard = True
            data += part
        return bytes(data)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    connection.sendall(_PREFIX.pack(len(body)) + body)


def _listen(path: str) -> tuple[socket.socket, int]:
    """Creates a listening socket at ``path``, mode 0600; returns it with its file's inode."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Under a temporary name until it listens, so that every process that sees the path can connect.
    unready = f"{path}.{os.getpid()}"
    try:
        listener.bind(unready)
        # Nothing can connect before listen.
        os.chmod(unready, 0o600)
        listener.listen()
        inode = os.stat(unready).st_ino
        os.rename(unready, path)
    except BaseException:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unready)
        raise
    return listener, inode


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
        raise FileExistsError(f"another trainer listens on {path}")
