"""What a worker tells a rank about its parameters: its recording, and handles of their memory."""

from __future__ import annotations

import hmac
import os

from ..errors import UnauthorizedError, UnsupportedError
from ..protocol.messages import Hello, Ok, Rehearse, Routes, Storages
from ..protocol.process import process_mark
from ..recording import DirectState

_NO_WRITES = "this engine does not allow writes into its parameters"


def greeting(token: str, engine: str, device_uuid: str, direct: DirectState | None) -> Hello:
    """Returns the worker's first message."""
    known = None if direct is None else direct.id
    rehearses = direct is not None and direct.rehearses
    return Hello(token, os.getpid(), engine, device_uuid, routes=known, process=process_mark(), rehearses=rehearses)


def check_token(token: str, own: str) -> None:
    """:raises UnauthorizedError: if a rank shows a wrong token."""
    if not hmac.compare_digest(token.encode(), own.encode()):
        raise UnauthorizedError("the rank does not know the run's token")


def describe(direct: DirectState | None, message: Routes | Storages | Rehearse) -> Ok:
    """Returns the answer; with the reason if there is nothing to describe."""
    if direct is None:
        return Ok(message.seq, message.epoch, reason=_NO_WRITES)
    if isinstance(message, Storages):
        try:
            return Ok(message.seq, message.epoch, storages=direct.handles())
        except UnsupportedError as error:
            return Ok(message.seq, message.epoch, reason=str(error))
    if isinstance(message, Rehearse):
        reason = direct.rehearse([(form.name, form.dtype, form.shape) for form in message.tensors])
        if reason is not None:
            return Ok(message.seq, message.epoch, reason=reason)
    recording = direct.recording
    if recording is None:
        return Ok(message.seq, message.epoch, reason=direct.refusal)
    return Ok(message.seq, message.epoch, routes=recording.describe())
