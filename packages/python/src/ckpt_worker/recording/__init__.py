"""Records the copies of a loader, at the level of tensor operations: docs/direct.md."""

from .conflicts import TwinCheck
from .direct import DirectState
from .recording import Recording
from .rehearsal import Rehearsal
from .replay import Replay
from .spot_check import SpotCheck
from .tracer import Tracer

__all__ = ["DirectState", "Recording", "Rehearsal", "Replay", "SpotCheck", "Tracer", "TwinCheck"]
