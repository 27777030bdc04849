"""The engine side of ckpt: receives new weights from a rank and loads them in place. See docs/worker-protocol.md."""

from .errors import (
    AbortedError,
    ConflictError,
    DigestMismatchError,
    LayoutError,
    PeerLostError,
    ProtocolError,
    RingError,
    SilenceError,
    StaleRoutesError,
    StateError,
    UnauthorizedError,
    UnsupportedError,
    WorkerError,
)
from .loading.digest import digest, digest_tensor
from .recording import DirectState, Recording, Tracer
from .update import Loader, UpdateResult, run_update

__all__ = [
    "AbortedError",
    "ConflictError",
    "DigestMismatchError",
    "DirectState",
    "LayoutError",
    "Loader",
    "PeerLostError",
    "ProtocolError",
    "Recording",
    "RingError",
    "SilenceError",
    "StaleRoutesError",
    "StateError",
    "Tracer",
    "UnauthorizedError",
    "UnsupportedError",
    "UpdateResult",
    "WorkerError",
    "digest",
    "digest_tensor",
    "run_update",
]
