"""Everything of a direct update that needs no tensors: the recording, and handles of the parameters' memory."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable

from ..errors import AbortedError, ProtocolError, WorkerError
from ..protocol.connection import Connection
from ..protocol.messages import (
    Abort,
    Error,
    ErrorInfo,
    FromRank,
    Leave,
    Ok,
    Rehearse,
    Routes,
    Storages,
    decode_from_rank,
    sender_of,
)
from ..recording import DirectState
from .describe import check_token, describe, greeting


def run_prepare(
    address: str,
    token: str,
    timeout: float,
    direct: DirectState,
    *,
    engine: str = "python",
    device_uuid: str = "",
    cancelled: Callable[[], bool] = lambda: False,
) -> str | None:
    """Connects to a rank and answers its questions until it leaves. The parameters do not change.

    :param address: ZeroMQ address that the rank bound, ``ipc://…``.
    :param token: the run's token, which the worker shows to the rank and requires from it.
    :param timeout: maximum silence of the rank, in seconds.
    :returns: id of the recording, if there is one now.
    :raises AbortedError: if the rank gives up.
    :raises SilenceError: if the rank sends nothing for ``timeout``.
    :raises PeerLostError: if the rank dies.
    :raises UnauthorizedError: if either side has a wrong token.
    :raises ProtocolError: for a frame that violates the protocol, or a message of an update.
    """
    with Connection(address, timeout, cancelled) as connection:
        connection.send(greeting(token, engine, device_uuid, direct))
        expected = 1
        while True:
            frame = connection.receive()
            message: FromRank | None = None
            try:
                message = decode_from_rank(frame)
                if isinstance(message, Error):
                    raise AbortedError(f"the rank refused this worker: {message.error.message}")
                if message.seq != expected:
                    raise ProtocolError(f"message {message.seq} came after message {expected - 1}")
                expected += 1
                if isinstance(message, Routes | Storages | Rehearse):
                    check_token(message.token, token)
                    connection.send(describe(direct, message))
                    continue
                if not isinstance(message, Leave | Abort):
                    raise ProtocolError(f"a {type(message).__name__.lower()} came while an update is only prepared")
            except Exception as error:
                if not isinstance(message, Error):
                    _refuse(connection, frame, error)
                raise
            if isinstance(message, Leave):
                direct.warm()
            connection.send(Ok(message.seq, message.epoch))
            if isinstance(message, Abort):
                raise AbortedError(f"the rank aborted: {message.reason}")
            return direct.id


def _refuse(connection: Connection, frame: bytes, error: Exception) -> None:
    kind = error.code if isinstance(error, WorkerError) else type(error).__name__
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(WorkerError):
        connection.send(Error(ErrorInfo(kind, str(error), text), *sender_of(frame)))
