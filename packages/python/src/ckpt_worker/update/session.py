"""One update, as the engine worker sees it: the worker's side of docs/worker-protocol.md."""

from __future__ import annotations

import contextlib
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from ..errors import AbortedError, ProtocolError, StaleRoutesError, StateError, UnauthorizedError, WorkerError
from ..loading.fence import Fence
from ..protocol.connection import Connection
from ..protocol.messages import (
    Abort,
    Attach,
    Bucket,
    Commit,
    Direct,
    Error,
    ErrorInfo,
    FromRank,
    Leave,
    Ok,
    Rehearse,
    Release,
    Routes,
    Storages,
    Sums,
    decode_from_rank,
    sender_of,
)
from ..recording import DirectState
from .describe import check_token, describe, greeting
from .load import Load, Loader


@dataclass(frozen=True)
class UpdateResult:
    """Result of an update."""

    version: str
    tensors: int
    bytes: int
    buckets: int
    #: Time spent in loads, in milliseconds.
    reload_ms: float


class _Answer(NamedTuple):
    seq: int
    epoch: int
    fence: Fence


def run_update(
    address: str,
    token: str,
    loader: Loader,
    finish: Callable[[], None] | None,
    device: torch.device | str,
    timeout: float,
    *,
    commit: Callable[[str], None] | None = None,
    engine: str = "python",
    device_uuid: str = "",
    cancelled: Callable[[], bool] = lambda: False,
    direct: DirectState | None = None,
    greeted: Callable[[], None] = lambda: None,
) -> UpdateResult:
    """Connects to a rank and takes one update from it, to its commit.

    :param address: ZeroMQ address that the rank bound, ``ipc://…``.
    :param token: the run's token, which the worker shows to the rank and requires from it.
    :param loader: called once per bucket.
    :param finish: called after the last bucket (post-processing); the rank may commit once it has returned.
    :param device: device of the parameters. On a GPU, loads run on a separate stream.
    :param timeout: maximum silence of the rank, in seconds.
    :param commit: called with the version before the commit is answered, so that the old version is not seen after it.
    :param engine: name of the worker in messages.
    :param device_uuid: UUID of the device, with which the rank checks that it talks to the right worker.
    :param cancelled: called a few times a second while waiting; true ends the update.
    :param direct: enables recording of updates and writes of ranks into parameters; the same object for every update of an
    engine.
    :param greeted: called after the greeting, before any message is taken: the rank goes on meanwhile.
    :raises AbortedError: if the rank aborts the update.
    :raises SilenceError: if the rank sends nothing for ``timeout``.
    :raises PeerLostError: if the rank dies.
    :raises UnauthorizedError: if either side has a wrong token.
    :raises ProtocolError: for a frame that violates the protocol.
    :raises DigestMismatchError: for a tensor that arrived damaged; nothing of its bucket was loaded.
    :raises Exception: errors of ``loader``, ``finish`` or ``commit``; the rank was told, with the traceback.
    """
    with Connection(address, timeout, cancelled) as connection:
        load = Load(loader, finish, torch.device(device), direct)
        update = _Update(connection, token, load, commit, direct)
        try:
            connection.send(greeting(token, engine, device_uuid, direct))
            greeted()
            return update.run()
        finally:
            update.close()


class _Update:
    def __init__(
        self,
        connection: Connection,
        token: str,
        load: Load,
        commit: Callable[[str], None] | None,
        direct: DirectState | None,
    ) -> None:
        self._connection = connection
        self._token = token
        self._load = load
        self._commit = commit
        self._direct = direct
        self._answers: deque[_Answer] = deque()
        self._attached: Attach | None = None
        self._prepared = False
        self._last_seq = 0
        self._reload_ms = 0.0

    def run(self) -> UpdateResult:
        while True:
            frame = self._next_frame()
            message: FromRank | None = None
            try:
                message = decode_from_rank(frame)
                result = self._handle(message)
            except AbortedError:
                raise
            except Exception as error:
                self._refuse(frame, message, error)
                raise
            if result is not None:
                return result

    def close(self) -> None:
        """Unmaps the ring, after waiting for work that still uses it."""
        self._load.drain()
        # After a failure tensors may stay alive in a traceback: the mapping then ends with them.
        with contextlib.suppress(WorkerError):
            self._load.unmap()

    def _next_frame(self) -> bytes:
        """Returns the next frame; buckets whose loads are over are answered, and further ones enqueued before any is waited
        for.
        """
        while self._answers:
            while self._answers and self._answers[0].fence.done():
                self._answer_oldest()
            frame = self._connection.waiting()
            if frame is not None:
                return frame
            if self._answers:
                self._answer_oldest()
        return self._connection.receive()

    def _answer_oldest(self) -> None:
        answer = self._answers.popleft()
        milliseconds = answer.fence.wait()
        self._reload_ms += milliseconds
        self._connection.send(Ok(answer.seq, answer.epoch, milliseconds))

    def _answer_all(self) -> None:
        while self._answers:
            self._answer_oldest()

    def _handle(self, message: FromRank) -> UpdateResult | None:
        if isinstance(message, Error):
            raise _refusal(message.error)
        if message.seq != self._last_seq + 1:
            raise ProtocolError(f"message {message.seq} came after message {self._last_seq}")
        self._last_seq = message.seq
        if self._attached is not None and message.epoch < self._attached.epoch:
            return None
        if isinstance(message, Bucket):
            fence = self._load.bucket(message, self._current_update(message))
            self._answers.append(_Answer(message.seq, message.epoch, fence))
            return None
        self._answer_all()
        if isinstance(message, Abort):
            self._load.drain()
            self._load.unmap()
            self._connection.send(Ok(message.seq, message.epoch))
            raise AbortedError(f"the rank aborted the update: {message.reason}")
        if isinstance(message, Rehearse) and self._attached is not None and not self._prepared:
            raise StateError("a rehearse came after the attach")
        if isinstance(message, Routes | Storages | Rehearse):
            check_token(message.token, self._token)
            self._connection.send(describe(self._direct, message))
            return None
        if isinstance(message, Leave):
            raise StateError("a leave came in an update")
        if isinstance(message, Direct):
            self._current_update(message)
            if self._prepared:
                raise StateError("a direct came after the release")
            self._connection.send(Ok(message.seq, message.epoch, replays=self._load.begin_direct(message)))
            return None
        if isinstance(message, Sums):
            self._current_update(message)
            self._connection.send(self._sum(message))
            return None
        if isinstance(message, Attach):
            self._attach(message)
        elif isinstance(message, Release):
            self._release(self._current_update(message))
        else:
            self._current_update(message)
            if not self._prepared:
                raise StateError("a commit came before the release")
            if self._commit is not None:
                self._commit(message.version)
        self._connection.send(Ok(message.seq, message.epoch))
        if isinstance(message, Commit):
            load = self._load
            return UpdateResult(message.version, load.tensors, load.bytes, load.buckets, self._reload_ms)
        return None

    def _sum(self, message: Sums) -> Ok:
        if not self._prepared or self._direct is None:
            raise StateError("sums of the parameters were requested before the release")
        try:
            return Ok(message.seq, message.epoch, sums=self._direct.sums(message.routes))
        except StaleRoutesError as error:
            return Ok(message.seq, message.epoch, reason=str(error))

    def _current_update(self, message: Bucket | Direct | Release | Sums | Commit) -> Attach:
        if self._attached is None:
            raise StateError(f"a {type(message).__name__.lower()} came before the attach")
        if message.epoch != self._attached.epoch:
            raise StateError(f"epoch {message.epoch} is not attached, but epoch {self._attached.epoch} is")
        return self._attached

    def _attach(self, message: Attach) -> None:
        check_token(message.token, self._token)
        if self._attached is not None and message.epoch == self._attached.epoch:
            raise StateError(f"epoch {message.epoch} is already attached")
        self._load.attach(message)
        self._attached = message
        self._prepared = False

    def _release(self, attached: Attach) -> None:
        if self._prepared:
            raise StateError("a second release came")
        self._load.release(attached)
        self._prepared = True

    def _refuse(self, frame: bytes, message: FromRank | None, error: Exception) -> None:
        """Answers with the error, then waits for the rank to abort (it must), ignoring what it had sent before."""
        text = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)  # they may hold tensors over the ring
        if isinstance(message, Error):
            return
        with contextlib.suppress(WorkerError):
            self._answer_all()
            seq, epoch = (message.seq, message.epoch) if message is not None else sender_of(frame)
            tensor = error.tensor if isinstance(error, WorkerError) else self._load.current
            kind = error.code if isinstance(error, WorkerError) else type(error).__name__
            self._connection.send(Error(ErrorInfo(kind, str(error), text, tensor), seq, epoch))
            if not isinstance(error, UnauthorizedError):
                self._await_abort()

    def _await_abort(self) -> None:
        while True:
            frame = self._connection.receive()
            try:
                message = decode_from_rank(frame)
            except ProtocolError:
                continue
            if isinstance(message, Abort):
                self.close()
                self._connection.send(Ok(message.seq, message.epoch))
                return


_REFUSALS: Final = {kind.code: kind for kind in (UnauthorizedError, AbortedError, StateError)}


def _refusal(error: ErrorInfo) -> WorkerError:
    kind = _REFUSALS.get(error.type, ProtocolError)
    return kind(f"the rank refused this worker: {error.message}")
