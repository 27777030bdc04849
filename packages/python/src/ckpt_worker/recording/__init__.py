"""Records the copies of a loader, at the level of tensor operations: docs/direct.md."""

from .casts import CastReplay
from .conflicts import TwinCheck
from .contents import Contents
from .direct import DirectState
from .recording import Recording
from .rehearsal import Rehearsal, no_addresses
from .replay import Replay
from .spot_check import SpotCheck
from .tracer import Tracer

__all__ = [
    "CastReplay",
    "Contents",
    "DirectState",
    "Recording",
    "Rehearsal",
    "Replay",
    "SpotCheck",
    "Tracer",
    "TwinCheck",
    "no_addresses",
]
