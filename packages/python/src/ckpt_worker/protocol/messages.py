"""Messages of the worker protocol, version 3 (docs/worker-protocol.md): one MessagePack map per frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from ..errors import ProtocolError
from .dtypes import DTYPE_BITS, tensor_bytes

PROTOCOL_VERSION: Final = 3
#: Maximum length of a frame, in bytes: enough for a bucket of a million tensors.
MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
#: Length of a CUDA IPC memory handle, in bytes (``CU_IPC_HANDLE_SIZE``).
CUDA_HANDLE_BYTES: Final = 64
_MAX_SAFE: Final = 2**53 - 1

if TYPE_CHECKING:
    Whole = int
else:
    # JavaScript packers write integers above 2^32 as floats; `_whole` turns them back.
    Whole = Annotated[int, Meta(ge=0, le=_MAX_SAFE)] | Annotated[float, Meta(ge=0, le=_MAX_SAFE)]


class Message(msgspec.Struct, frozen=True, tag_field="type", rename="camel"):
    """Any message on the socket."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error in a message. ``type`` is a stable code if the error is ours, otherwise the exception's class."""

    type: str
    message: str
    traceback: str = ""
    tensor: str | None = None


class Hello(Message, frozen=True, tag="hello"):
    """The worker's first message."""

    token: str
    pid: int
    engine: str
    device: str
    protocol: int = PROTOCOL_VERSION
    #: Id of the recording that this worker holds and that matches its parameters.
    routes: str | None = None
    #: Mark with which the rank can check that ``pid`` means this process in its own namespace.
    process: str | None = None
    #: True if this worker takes ``rehearse``.
    rehearses: bool = False


class Ok(Message, frozen=True, tag="ok", omit_defaults=True):
    """The answer to a successful message; ``reload_ms`` (only for buckets) is the time of the load, in milliseconds."""

    seq: int
    epoch: int
    reload_ms: float | None = None
    #: The recording (only for ``routes``), or the reason why there is none.
    routes: Any = None
    reason: str | None = None
    #: Handles (only for ``storages``).
    storages: Any = None
    #: Number of tensors that the worker copies itself (only for ``direct`` with ``replay``).
    replays: int | None = None
    #: Sums of the recording's routes, 8 bytes each, little-endian (only for ``sums``).
    sums: bytes | None = None


class Error(Message, frozen=True, tag="error"):
    """The answer to a failed message. From the rank: the reason why it refuses this worker."""

    error: ErrorInfo
    seq: int = 0
    epoch: int = 0


class ShmRing(msgspec.Struct, tag_field="kind", tag="shm"):
    """Ring in POSIX shared memory: a file of this name in /dev/shm; ``offset`` and ``size`` in bytes."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    offset: Whole
    size: Whole = msgspec.field(name="bytes")
    #: Identity of the object of that name, from ``fstat``: device and inode, decimal, and the whole object's size. Older ranks
    #: do not send it.
    device: Annotated[str, Meta(max_length=20)] | None = None
    inode: Annotated[str, Meta(max_length=20)] | None = None
    whole: Whole | None = msgspec.field(name="size", default=None)


class CudaRing(msgspec.Struct, tag_field="kind", tag="cuda", rename="camel"):
    """Ring in the memory of a GPU, by CUDA IPC handle; ``offset`` and ``size`` in bytes."""

    handle: Annotated[bytes, Meta(min_length=CUDA_HANDLE_BYTES, max_length=CUDA_HANDLE_BYTES)]
    offset: Whole
    device_uuid: str
    size: Whole = msgspec.field(name="bytes")


class TensorEntry(msgspec.Struct, array_like=True):
    """One tensor of a bucket. ``offset`` counts from the start of the ring's data; ``digest`` is 8 bytes, little-endian."""

    #: May be empty: the safetensors format has such names.
    name: Annotated[str, Meta(max_length=65536)]
    dtype: str
    shape: Annotated[list[Whole], Meta(max_length=64)]
    offset: Whole
    size: Whole
    digest: Annotated[bytes, Meta(min_length=8, max_length=8)] | None = None

    @property
    def digest_value(self) -> int | None:
        """Returns the digest as an unsigned 64-bit integer."""
        return None if self.digest is None else int.from_bytes(self.digest, "little")


class RankMessage(Message, frozen=True):
    """Common fields of all messages of the rank: ``seq`` counts 1, 2, 3 … per connection, ``epoch`` names the update."""

    seq: Annotated[int, Meta(ge=1, le=_MAX_SAFE)]
    epoch: Annotated[int, Meta(ge=0, le=_MAX_SAFE)]


class Attach(RankMessage, frozen=True, tag="attach"):
    """Starts an update; ``tensors`` and ``size`` (bytes) are the totals of the buckets."""

    token: str
    ring: ShmRing | CudaRing | None
    tensors: Whole
    size: Whole = msgspec.field(name="bytes")
    #: True to record the loader's copies.
    record: bool = False


class Bucket(RankMessage, frozen=True, tag="bucket"):
    """Tensors that are in the ring now."""

    bucket: Annotated[int, Meta(ge=0, le=_MAX_SAFE)]
    tensors: list[TensorEntry]


class Routes(RankMessage, frozen=True, tag="routes"):
    """Asks for the recording."""

    token: str


class Storages(RankMessage, frozen=True, tag="storages"):
    """Asks for handles of the recording's storages."""

    token: str


class Form(msgspec.Struct, array_like=True):
    """Name, dtype and shape of a tensor."""

    name: Annotated[str, Meta(max_length=65536)]
    dtype: str
    shape: Annotated[list[Whole], Meta(max_length=64)]


class Rehearse(RankMessage, frozen=True, tag="rehearse"):
    """Asks for a recording of what the loader would do with these tensors. Nothing is loaded. Answered like ``routes``."""

    token: str
    tensors: list[Form]


class Leave(RankMessage, frozen=True, tag="leave"):
    """Ends the session of a worker that was told to prepare."""


class Direct(RankMessage, frozen=True, tag="direct"):
    """Announces that the rank will write into the storages of the recording that ``routes`` names."""

    routes: str
    #: True if the rank does not write, but everything comes through the ring: the worker makes the recorded copies itself.
    replay: bool = False
    #: Tensors that also come through the ring, to compare the loader with the written bytes.
    check: list[str] = []


class Release(RankMessage, frozen=True, tag="release"):
    """Every bucket was sent, everything is written: finish loading and unmap the ring."""


class Sums(RankMessage, frozen=True, tag="sums"):
    """Requests the sums of the parameters' bytes for each route of the recording that ``routes`` names."""

    routes: str


class Commit(RankMessage, frozen=True, tag="commit"):
    """Serve ``version`` from now on; ``digest`` identifies its bytes."""

    version: str
    digest: str | None = None


class Abort(RankMessage, frozen=True, tag="abort"):
    """Aborts the update."""

    reason: str


FromRank = Attach | Bucket | Routes | Storages | Rehearse | Leave | Direct | Release | Sums | Commit | Abort | Error
FromWorker = Hello | Ok | Error

_encoder = msgspec.msgpack.Encoder()
_from_rank = msgspec.msgpack.Decoder(FromRank)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def encode(message: FromRank | FromWorker) -> bytes:
    """Encodes a message as a frame."""
    return _encoder.encode(message)


def decode_from_rank(frame: bytes | memoryview) -> FromRank:
    """Decodes a frame from the rank.

    :raises ProtocolError: for anything that is not a valid message; its text names the field.
    """
    message: FromRank = _decode(_from_rank, frame)
    if isinstance(message, Bucket):
        for entry in message.tensors:
            _settle_entry(entry)
    elif isinstance(message, Rehearse):
        for form in message.tensors:
            _settle_form(form)
    elif isinstance(message, Attach):
        ring = message.ring
        if ring is not None:
            ring.offset, ring.size = _whole(ring.offset, "ring.offset"), _whole(ring.size, "ring.bytes")
            if isinstance(ring, ShmRing) and ring.whole is not None:
                ring.whole = _whole(ring.whole, "ring.size")
        force_setattr(message, "tensors", _whole(message.tensors, "tensors"))
        force_setattr(message, "size", _whole(message.size, "bytes"))
    return message


def decode_from_worker(frame: bytes | memoryview) -> FromWorker:
    """Decodes a frame from a worker, for servers written in Python.

    :raises ProtocolError: for anything that is not a valid message; its text names the field.
    """
    message: FromWorker = _decode(_from_worker, frame)
    return message


def sender_of(frame: bytes) -> tuple[int, int]:
    """Returns ``(seq, epoch)`` of a frame that does not decode, as far as they can be read; 0 otherwise."""
    try:
        message = msgspec.msgpack.decode(frame)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError):
        return 0, 0
    if not isinstance(message, dict):
        return 0, 0
    seq, epoch = message.get("seq"), message.get("epoch")
    return (seq if isinstance(seq, int) else 0), (epoch if isinstance(epoch, int) else 0)


def _decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview) -> Any:
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(frame)} bytes is over the limit of {MAX_FRAME_BYTES}")
    try:
        return decoder.decode(frame)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"malformed message: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a frame that is not MessagePack: {error}") from error


# Checks that types alone cannot express. They are not done in `__post_init__`: setting a field there corrupts array-like
# structs in msgspec 0.20 (the object is given to the garbage collector twice).
def _settle_entry(entry: TensorEntry) -> None:
    # Nearly all are valid already. The product is a float if any length is one.
    if type(entry.offset) is int and type(entry.size) is int and entry.dtype in DTYPE_BITS:
        bits = math.prod(entry.shape) * DTYPE_BITS[entry.dtype]
        if type(bits) is int and bits == entry.size * 8:
            return
    what = f"tensor {entry.name!r}"
    if entry.dtype not in DTYPE_BITS:
        raise ProtocolError(f"malformed message: {what} has unknown dtype {entry.dtype!r}", tensor=entry.name)
    entry.shape = [_whole(length, f"shape of {what}") for length in entry.shape]
    entry.offset = _whole(entry.offset, f"offset of {what}")
    entry.size = _whole(entry.size, f"bytes of {what}")
    try:
        size = tensor_bytes(entry.dtype, entry.shape)
    except ValueError as error:
        raise ProtocolError(f"malformed message: {what}: {error}", tensor=entry.name) from error
    if size != entry.size:
        described = f"{entry.dtype} of shape {entry.shape} needs {size} bytes, not {entry.size}"
        raise ProtocolError(f"malformed message: {what}: {described}", tensor=entry.name)


def _settle_form(form: Form) -> None:
    what = f"tensor {form.name!r}"
    if form.dtype not in DTYPE_BITS:
        raise ProtocolError(f"malformed message: {what} has unknown dtype {form.dtype!r}", tensor=form.name)
    form.shape = [_whole(length, f"shape of {what}") for length in form.shape]
    try:
        tensor_bytes(form.dtype, form.shape)
    except ValueError as error:
        raise ProtocolError(f"malformed message: {what}: {error}", tensor=form.name) from error


def _whole(value: float, field: str) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ProtocolError(f"malformed message: {field} is {value}, not an integer")
    return int(value)
