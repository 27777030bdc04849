"""Arguments of an engine's own call to a worker: the address of its rank, and the proof that it belongs to the run."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import stat
import struct
from typing import Annotated, Any, Literal

import msgspec

from ..errors import PeerLostError, ProtocolError, UnauthorizedError
from .engine_key import FILE_VARIABLE, KEY_VARIABLE, OFF, engine_key, where


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """Address at which one rank waits for its worker."""

    rank: int
    device_uuid: str
    address: str


class UpdateCall(msgspec.Struct, frozen=True, rename="camel"):
    """One update of one engine instance; the same for all of its workers."""

    #: One per worker, in the order of the workers.
    endpoints: Annotated[list[Endpoint], msgspec.Meta(min_length=1)]
    token: str
    #: Maximum silence of the rank, in milliseconds.
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)]
    #: Result of :func:`ckpt_worker.protocol.engine_key.engine_key` in the engine's worker.
    key: str = ""
    #: Handling of the speculative drafter; ``auto``: it takes the weights if it comes from the same checkpoint.
    drafter: Literal["auto", "load", "skip"] = "auto"
    #: True if parameters that the checkpoint lacks are an error.
    complete: bool = True


def parse_call(data: Any) -> UpdateCall:
    """Returns the call in ``data`` (decoded JSON).

    :raises ProtocolError: naming the wrong field.
    :raises UnauthorizedError: if the call lacks this engine's key, or if this engine has no usable key.
    """
    try:
        call = msgspec.convert(data, UpdateCall)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the call is malformed: {error}") from error
    key = engine_key()
    if key is not None and not hmac.compare_digest(call.key.encode(), key.encode()):
        brings = "a different key" if call.key else "no key"
        raise UnauthorizedError(
            f"the call carries {brings}; {KEY_VARIABLE} of this engine comes from {where()}: give the engine and the "
            f"parameter server the same {FILE_VARIABLE}, or {KEY_VARIABLE}={OFF} to both to disable the key"
        )
    return call


def endpoint_for(call: UpdateCall, index: int, device_uuid: str) -> Endpoint:
    """Returns the endpoint of a worker: by its GPU, because the ring is there; without GPUs by its index among the workers.

    :param index: the worker's index among all workers of the instance.
    :param device_uuid: UUID of its GPU, empty if there is none.
    :raises ProtocolError: if there is none, or more than one.
    """
    if device_uuid.startswith("GPU-"):
        own = [endpoint for endpoint in call.endpoints if endpoint.device_uuid == device_uuid]
        if len(own) != 1:
            there = ", ".join(endpoint.device_uuid for endpoint in call.endpoints)
            raise ProtocolError(f"worker {index} is on {device_uuid}, but {len(own)} of the ranks are on it: {there}")
        return own[0]
    if not 0 <= index < len(call.endpoints):
        raise ProtocolError(f"worker {index} has no rank: the call has {len(call.endpoints)} endpoints")
    return call.endpoints[index]


def check_listening(address: str) -> None:
    """Checks that a rank of this user, or of root, listens there.

    Engines queue calls: one may begin long after its rank has given up. And the caller could have named its own socket, which
    others can reach or replace.

    :raises PeerLostError: if nobody listens.
    :raises UnauthorizedError: if others own the socket, may enter its directory, or listen on it.
    """
    path = address.removeprefix("ipc://")
    if not path.startswith("@"):
        _check_socket(path, address)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(2)
        try:
            probe.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        except OSError as error:
            raise PeerLostError(f"no rank waits at {address} any more: {error.strerror or error}") from error
        _, user, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    _check_owner(user, f"the process that listens at {address} runs as")


def _check_socket(path: str, address: str) -> None:
    try:
        directory, own = os.lstat(os.path.dirname(path) or "."), os.lstat(path)
    except OSError as error:
        raise PeerLostError(f"no rank waits at {address} any more: {error.strerror or error}") from error
    if not stat.S_ISSOCK(own.st_mode):
        raise UnauthorizedError(f"{address} is not a socket")
    _check_owner(own.st_uid, f"the socket of {address} belongs to")
    _check_owner(directory.st_uid, f"the directory of {address} belongs to")
    if not stat.S_ISDIR(directory.st_mode) or directory.st_mode & 0o077:
        raise UnauthorizedError(f"others may enter the directory of {address}, or it is a link: a rank's has mode 0700")


def _check_owner(user: int, what: str) -> None:
    if user not in (os.geteuid(), 0):
        raise UnauthorizedError(f"{what} user {user}, not this user ({os.geteuid()}) or root")
