"""Calls on a rank program: frames of a 4-byte little-endian length and MessagePack (docs/rank-program.md)."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from .choices import Endpoint, EngineStart
from .errors import CkptError, deserialize, error
from .host_writes import HostWrites
from .process import RankProcess

#: Version of the messages.
PROTOCOL: Final = 1
#: Silence in seconds after which a program with a running call counts as stuck: it sends something every second.
SILENCE: Final = 60.0
_PREFIX: Final = struct.Struct("<I")
_MAX_FRAME: Final = 256 * 1024 * 1024
_WHOLE_FROM: Final = 2.0**32


@dataclass(frozen=True)
class Progress:
    """How far a call has come, in bytes."""

    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """The end of a call that succeeded."""

    value: Any


@dataclass(frozen=True)
class Services:
    """What a call offers to the program while it runs."""

    #: Tensors that are written to the program's memory.
    writes: HostWrites | None = None
    #: Starts the workers of an engine, and returns when they have ended.
    engine: Callable[[EngineStart], None] | None = None


#: What a call receives: any number of times its progress, then its result or its error.
Event = Progress | Result | CkptError


class Client:
    """One rank program, and the calls that are running on it. Its methods may be called from any thread."""

    def __init__(self, start_timeout: float) -> None:
        self._process_id = os.getpid()
        self.process = RankProcess()
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._running: dict[int, Callable[[Event], None]] = {}
        #: What the program may ask for, by call.
        self._services: dict[int, Services] = {}
        #: False once the system has refused to write to the program's memory: tensors pass through shared memory then.
        self.can_write = True
        self._next = 0
        self._lost: CkptError | None = None
        self._heard = time.monotonic()
        self._ended = self._stuck = False
        #: Set before the program is told to end: its end is expected then.
        self.closing = False
        self._ready = threading.Event()
        self.process.socket.settimeout(SILENCE)
        self._reader = threading.Thread(target=self._read, name="ckpt-rank", daemon=True)
        self._reader.start()
        _clients.add(self)
        if not self._ready.wait(start_timeout) and self._lost is None:
            self._fail(
                error("TIMEOUT", f"the rank program (process {self.process.pid}) was not ready after {start_timeout:g} s")
            )
        if self._lost is not None:
            self.end(0)
            raise self._lost

    def check_process(self) -> None:
        """:raises OperationError: in a process that was forked since."""
        if os.getpid() != self._process_id:
            raise error(
                "INVALID_STATE",
                f"this parameter server belongs to process {self._process_id}, and this one (process {os.getpid()}) was forked "
                "from it: create another parameter server here",
            )

    @property
    def is_foreign(self) -> bool:
        """True in a process that was forked since."""
        return os.getpid() != self._process_id

    def start(
        self,
        verb: str,
        arguments: Mapping[str, Any],
        deliver: Callable[[Event], None],
        progress: bool,
        services: Services,
    ) -> int:
        """Starts a call and returns its id. ``deliver`` gets its events, from a thread of this object.

        :param services: what the program may ask for
        :raises CkptError: if the program has ended.
        """
        self.check_process()
        with self._lock:
            if self._ended and self._lost is None:
                raise error("INVALID_STATE", "the parameter server is closed")
            if self._lost is not None:
                raise self._lost
            call = self._next
            self._next += 1
            self._running[call] = deliver
            self._services[call] = services
        try:
            self._send({"type": "call", "id": call, "verb": verb, "arguments": arguments, "progress": progress})
        except BaseException:
            with self._lock:
                self._running.pop(call, None)
                self._services.pop(call, None)
            raise
        return call

    def cancel(self, call: int) -> bool:
        """Asks the program to end a call early; returns True if its answer can be expected soon."""
        self._stop_writes([call])
        if self._stuck or self._lost is not None:
            return False
        with contextlib.suppress(CkptError):
            self._send({"type": "cancel", "id": call})
        return True

    def check_alive(self, since: float) -> None:
        """Checks that the program has sent something lately.

        :param since: start of the call, by ``time.monotonic()``.
        :raises OperationError: ``TIMEOUT`` after a minute of silence.
        """
        if time.monotonic() - max(self._heard, since) <= SILENCE:
            return
        time.sleep(1)  # this process may have been stopped itself: what was sent meanwhile is read first
        silence = time.monotonic() - max(self._heard, since)
        if silence > SILENCE:
            self._stuck = True
            raise error(
                "TIMEOUT",
                f"the rank program (process {self.process.pid}) has sent nothing for {silence:.0f} s: it is stopped or stuck",
                pid=self.process.pid,
            )

    def end(self, within: float | None = None) -> None:
        """Ends the program; running calls fail. Does nothing in a process that was forked since."""
        if self.is_foreign:
            return
        with self._lock:
            if self._ended:
                return
            self._ended = True
            writing = list(self._services)
        self._stop_writes(writing)
        if within is None:
            self.process.end()
        else:
            self.process.end(within)
        if threading.current_thread() is not self._reader:
            self._reader.join(5)
        _clients.discard(self)

    def forget(self) -> None:
        """Closes this process's copies of files, in a child that was forked."""
        self.process.forget()

    def _stop_writes(self, calls: Iterable[int]) -> None:
        """Returns when nothing is written any more for these calls: only then may the program release its memory."""
        for call in calls:
            services = self._services.get(call)
            if services is not None and services.writes is not None:
                services.writes.stop()

    def _serve(self, message: Mapping[str, Any], services: Services, deliver: Callable[[Event], None]) -> None:
        """Does what the program asks for, and answers."""
        reason: str | None
        if message["what"] == "fill" and services.writes is not None:
            writes = services.writes
            addresses = [int(address) for address in message["addresses"]]
            reason = writes.write(self.process.pid, addresses, lambda done: deliver(Progress(done, writes.size)))
            if writes.refused:
                self.can_write = False
        elif message["what"] == "engine" and services.engine is not None:
            reason = _start(services.engine, message)
        else:
            reason = f"this client has no {message['what']}"
        with contextlib.suppress(CkptError):
            self._send({"type": "done", "ask": message["ask"]} | ({} if reason is None else {"error": reason}))

    def _send(self, message: Mapping[str, Any]) -> None:
        body = msgspec.msgpack.encode(message)
        try:
            with self._send_lock:
                self.process.socket.sendall(_PREFIX.pack(len(body)) + body)
        except TimeoutError as reason:
            raise error("TIMEOUT", f"the rank program takes no message for {SILENCE:g} s", pid=self.process.pid) from reason
        except OSError as reason:
            # The reader finds the end, too, and knows more about it.
            self._reader.join(5)
            raise (self._lost or self.process.lost()) from reason

    def _read(self) -> None:
        try:
            while True:
                self._take(self._frame())
        except CkptError as reason:
            self._fail(reason)
        except (OSError, EOFError):
            # Its process id may belong to another process once its end was noticed.
            self._stop_writes(list(self._services))
            self._fail(
                error("INVALID_STATE", "the parameter server is closed") if self._ended or self.closing else self.process.lost()
            )
        except Exception as reason:
            failure = error("RANK_LOST", f"the rank program sent what cannot be read: {reason}", pid=self.process.pid)
            failure.__cause__ = reason
            self._fail(failure)

    def _frame(self) -> dict[str, Any]:
        (length,) = _PREFIX.unpack(self._exactly(_PREFIX.size))
        if length > _MAX_FRAME:
            raise error("RANK_LOST", f"the rank program sent a frame of {length} bytes", pid=self.process.pid)
        message: dict[str, Any] = msgspec.msgpack.decode(self._exactly(length), type=dict[str, Any])
        return message

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self.process.socket.recv(size - len(data))
            except TimeoutError:
                continue  # nothing is running, or the calls notice it
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _take(self, message: Mapping[str, Any]) -> None:
        self._heard, self._stuck = time.monotonic(), False
        kind, call = message["type"], message.get("id", -1)
        if kind == "ready":
            if message["protocol"] != PROTOCOL:
                text = f"the rank program speaks version {message['protocol']} of its protocol, this package version {PROTOCOL}"
                raise error("UNSUPPORTED", f"{text}: use a bundle of the same version", field="protocol")
            self._ready.set()
        elif kind == "progress":
            self._deliver(call, Progress(int(message["done"]), int(message["total"])), last=False)
        elif kind == "ask":
            with self._lock:
                services, deliver = self._services.get(call, Services()), self._running.get(call, lambda _: None)
            arguments = (message, services, deliver)
            threading.Thread(target=self._serve, args=arguments, name="ckpt-serve", daemon=True).start()
        elif kind == "result":
            self._deliver(call, Result(_with_whole_numbers(message.get("value"))), last=True)
        elif kind == "error":
            self._deliver(call, deserialize(_with_whole_numbers(message["error"])), last=True)

    def _deliver(self, call: int, event: Event, *, last: bool) -> None:
        with self._lock:
            deliver = self._running.pop(call, None) if last else self._running.get(call)
            if last:
                self._services.pop(call, None)
        if deliver is not None:
            deliver(event)

    def _fail(self, reason: CkptError) -> None:
        """Fails all running calls, and those to come."""
        with self._lock:
            self._lost = self._lost or reason
            running, self._running = list(self._running.values()), {}
        self._ready.set()
        for deliver in running:
            deliver(reason)


def _start(engine: Callable[[EngineStart], None], message: Mapping[str, Any]) -> str | None:
    """Calls an engine. Returns the reason for which it failed."""
    endpoints = [Endpoint(int(one["rank"]), one["deviceUuid"], one["address"]) for one in message["endpoints"]]
    try:
        engine(EngineStart(int(message["rank"]), endpoints, message["token"], message["timeoutMs"] / 1000))
    except Exception as reason:
        return f"{type(reason).__name__}: {reason}"
    return None


def _with_whole_numbers(value: Any) -> Any:
    """JavaScript packs whole numbers above 32 bits as floats: returns them as integers."""
    if isinstance(value, float) and abs(value) >= _WHOLE_FROM and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _with_whole_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    return value


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forget_in_child() -> None:
    for client in list(_clients):
        client.forget()


os.register_at_fork(after_in_child=_forget_in_child)
