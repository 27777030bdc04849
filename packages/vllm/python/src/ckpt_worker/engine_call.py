"""What an engine's own call tells a worker: where its rank is and how to prove that it belongs to the run."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
from typing import Annotated, Any, Final, Literal

import msgspec

from .errors import PeerLostError, ProtocolError, UnauthorizedError

#: A secret that calls must carry where this variable is set in the engine's environment: engines' control endpoints have no
#: authentication of their own, and whoever reaches them could have other weights loaded.
KEY_VARIABLE: Final = "CKPT_ENGINE_KEY"


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """Where one rank waits for its worker."""

    rank: int
    device_uuid: str
    address: str


class UpdateCall(msgspec.Struct, frozen=True, rename="camel"):
    """One update of one engine instance; the same for all of its workers."""

    #: One a worker, in the order of the workers.
    endpoints: Annotated[list[Endpoint], msgspec.Meta(min_length=1)]
    token: str
    #: Longest silence of the rank, in milliseconds.
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)]
    #: What :data:`KEY_VARIABLE` holds.
    key: str = ""
    #: Whether the speculative drafter takes the weights too; ``auto``: where it comes from the same checkpoint.
    drafter: Literal["auto", "load", "skip"] = "auto"
    #: Whether parameters that the checkpoint does not bring are an error.
    complete: bool = True


def parse_call(data: Any) -> UpdateCall:
    """The call in ``data`` (as JSON came out).

    :raises ProtocolError: naming the field that is wrong.
    :raises UnauthorizedError: where this engine wants a key and the call has another one.
    """
    try:
        call = msgspec.convert(data, UpdateCall)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the call is malformed: {error}") from error
    key = os.environ.get(KEY_VARIABLE, "")
    if key and not hmac.compare_digest(call.key.encode(), key.encode()):
        raise UnauthorizedError(f"the call does not have the key that {KEY_VARIABLE} asks for")
    return call


def endpoint_for(call: UpdateCall, index: int, device_uuid: str) -> Endpoint:
    """The endpoint of a worker: by its GPU, since the ring lies there; without GPUs by its place among the workers.

    :param index: the worker's place among all workers of the instance.
    :param device_uuid: UUID of its GPU, empty where there is none.
    :raises ProtocolError: where there is none, or more than one.
    """
    if device_uuid.startswith("GPU-"):
        own = [endpoint for endpoint in call.endpoints if endpoint.device_uuid == device_uuid]
        if len(own) != 1:
            there = ", ".join(endpoint.device_uuid for endpoint in call.endpoints)
            raise ProtocolError(f"worker {index} is on {device_uuid}, and {len(own)} of the ranks are: {there}")
        return own[0]
    if not 0 <= index < len(call.endpoints):
        raise ProtocolError(f"worker {index} has no rank: the call brings {len(call.endpoints)}")
    return call.endpoints[index]


def check_listening(address: str) -> None:
    """Whether somebody listens there. Engines queue calls: one may begin long after its rank has given up.

    :raises PeerLostError: where nobody does.
    """
    path = address.removeprefix("ipc://")
    where = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(2)
        try:
            probe.connect(where)
        except OSError as error:
            raise PeerLostError(f"no rank waits at {address} any more: {error.strerror or error}") from error
