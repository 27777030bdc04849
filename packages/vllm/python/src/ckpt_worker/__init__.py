"""The engine side of ckpt: takes new weights from a rank and loads them in place. See docs/worker-protocol.md."""

from .digest import digest, digest_tensor
from .errors import (
    AbortedError,
    DigestMismatchError,
    LayoutError,
    PeerLostError,
    ProtocolError,
    RingError,
    SilenceError,
    StateError,
    UnauthorizedError,
    UnsupportedError,
    WorkerError,
)
from .session import Loader, UpdateResult, run_update

__all__ = [
    "AbortedError",
    "DigestMismatchError",
    "LayoutError",
    "Loader",
    "PeerLostError",
    "ProtocolError",
    "RingError",
    "SilenceError",
    "StateError",
    "UnauthorizedError",
    "UnsupportedError",
    "UpdateResult",
    "WorkerError",
    "digest",
    "digest_tensor",
    "run_update",
]
