"""What a loader copies where, seen at the level of tensor operations: docs/direct.md."""

from .direct import DirectState
from .recording import Recording
from .replay import Replay
from .tracer import Tracer

__all__ = ["DirectState", "Recording", "Replay", "Tracer"]
