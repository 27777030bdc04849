"""The worker's end of the socket: receives frames with a deadline, sends frames, and detects a lost rank."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import AbortedError, PeerLostError, SilenceError, UnreachableError
from .descriptors import require_socket_descriptors
from .messages import MAX_FRAME_BYTES, FromWorker, encode

#: Maximum wait, in milliseconds, between two checks that the engine is not shutting down.
_SLICE_MS: Final = 250
#: Time in milliseconds for reading what a rank sent before its end.
_REST_MS: Final = 50
#: Time in milliseconds for the last answer to leave the process, before it is dropped.
_FLUSH_MS: Final = 2000
#: Time in seconds for the rank's socket to become visible: it was bound before the engine was called.
_SEEN_WITHIN: Final = 1.0


class Connection:
    """A DEALER socket connected to the rank's. Use it as a context manager; closing never waits for a dead rank."""

    def __init__(self, address: str, timeout: float, cancelled: Callable[[], bool]) -> None:
        if not address.startswith("ipc://"):
            raise ValueError(f"the address of a rank is ipc://…, not {address!r}")
        self._path = address.removeprefix("ipc://")
        _check_visible(self._path, min(timeout, _SEEN_WITHIN))
        require_socket_descriptors(f"the connection to the rank at {self._path}")
        #: True once a frame arrived: the rank has this connection, so its end will be noticed.
        self._met = False
        self._timeout = timeout
        self._cancelled = cancelled
        self._flush_ms = 0
        self._lost = False
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        # An answer that was just sent is still in the process: wait briefly for it, unless there is no peer to receive it.
        self._socket.close(linger=self._flush_ms)
        self._context.term()

    def send(self, message: FromWorker) -> None:
        """Queues a message; never blocks."""
        self._socket.send(encode(message))
        self._flush_ms = _FLUSH_MS

    def waiting(self) -> bytes | None:
        """Returns a frame that has already arrived, or nothing."""
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def receive(self) -> bytes:
        """Returns the next frame.

        :raises SilenceError: if none arrives within the timeout.
        :raises PeerLostError: if the rank closed the connection and left no frame, or removed its socket before.
        :raises AbortedError: if the engine is shutting down.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            left_ms = (deadline - time.monotonic()) * 1000
            ready = dict(self._poller.poll(max(0, min(math.ceil(left_ms), _REST_MS if self._lost else _SLICE_MS))))
            frame = self.waiting()
            if frame is not None:
                self._met = True
                return frame
            if self._monitor in ready and not self._lost:
                recv_monitor_message(self._monitor)
                self._lost = True
                continue  # frames from before the end must still be read
            if self._lost:
                self._flush_ms = 0
                raise PeerLostError("the rank closed the connection during the update")
            if not self._met and not _is_there(self._path):
                self._flush_ms = 0
                raise PeerLostError(f"the rank abandoned the update before this worker had connected: {self._path} was removed")
            if self._cancelled():
                raise AbortedError("the engine is shutting down")
            if left_ms <= 0:
                self._flush_ms = 0
                raise SilenceError(f"the rank sent nothing for {self._timeout:g} s")


def _check_visible(path: str, patience: float) -> None:
    """Checks that the socket exists, because ZeroMQ would silently try to connect forever.

    :raises UnreachableError: with the reason, if the socket cannot be seen or written to.
    """
    if path.startswith("@"):
        return  # an abstract name, which has no file
    deadline = time.monotonic() + patience
    while True:
        try:
            os.stat(path)
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UnreachableError(_unreachable(path, error.strerror or str(error))) from error
        time.sleep(0.05)
    if not os.access(path, os.W_OK):
        raise UnreachableError(_unreachable(path, "this process may not write to it"))


def _is_there(path: str) -> bool:
    """Returns True if the socket exists. The rank removes it when its update is over, but ZeroMQ would keep connecting until
    the timeout.
    """
    return path.startswith("@") or os.path.exists(path)


def _unreachable(path: str, why: str) -> str:
    directory = os.path.dirname(path)
    return (
        f"process {os.getpid()} (user {os.geteuid()}) cannot reach the rank's socket {path}: {why}. "
        f"Run engine and rank as the same user, and let both see {directory}: a volume that both containers mount at the same "
        "path, given to the rank in XDG_RUNTIME_DIR"
    )
