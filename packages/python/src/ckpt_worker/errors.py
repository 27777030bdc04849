"""Typed errors of the worker. ``code`` is the stable name that the rank maps to its own error codes."""

from __future__ import annotations


class WorkerError(Exception):
    """Base of every error that this package raises on purpose."""

    code = "ENGINE_WORKER_ERROR"

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        #: Name of the tensor that the error is about, if any.
        self.tensor = tensor


class ProtocolError(WorkerError):
    """A frame that violates docs/worker-protocol.md; the message names the field."""

    code = "ENGINE_PROTOCOL"


class UnauthorizedError(WorkerError):
    """The other side does not know the run's token, or refused ours."""

    code = "ENGINE_UNAUTHORIZED"


class StateError(WorkerError):
    """A message, or a call, that is not allowed in the state of the update."""

    code = "INVALID_STATE"


class DigestMismatchError(WorkerError):
    """The bytes in the ring differ from those that the rank sent; ``tensor`` names the tensor."""

    code = "DIGEST_MISMATCH"


class RingError(WorkerError):
    """The ring cannot be mapped, does not contain what the rank announced, or is still in use."""

    code = "NATIVE_FAILURE"


class UnsupportedError(WorkerError):
    """This machine or this build of torch does not support the request."""

    code = "UNSUPPORTED"


class ShortageError(WorkerError):
    """A limit of this process or machine is too low; the message names the limit."""

    code = "OUT_OF_MEMORY"


class AbortedError(WorkerError):
    """The rank aborted the update (the message is its reason), or the engine is shutting down."""

    code = "ABORTED"


class SilenceError(WorkerError):
    """The rank sent nothing within the deadline."""

    code = "TIMEOUT"


class UnreachableError(WorkerError):
    """The rank's socket does not exist, or may not be used, where this process runs."""

    code = "ENGINE_UNREACHABLE"


class PeerLostError(WorkerError):
    """The rank closed the connection during an update."""

    code = "RANK_LOST"


class LayoutError(WorkerError):
    """A tensor that does not match the engine's parameters; ``tensor`` names it."""

    code = "INVALID_ARGUMENT"


class StaleRoutesError(WorkerError):
    """There is no recording that matches the current parameters."""

    code = "ROUTES_STALE"


class ConflictError(WorkerError):
    """Two tensors with different bytes have the same place in the engine's parameters; the message names all three."""

    code = "CHECKPOINT_MALFORMED"
