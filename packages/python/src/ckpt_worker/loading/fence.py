"""Detects the end of a bucket's loads: immediate on a CPU, by an event on a GPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import torch


class Fence(Protocol):
    """A point after the loads of one bucket."""

    def done(self) -> bool:
        """Returns True if the loads are over; never blocks."""

    def wait(self) -> float:
        """Blocks until they are over; returns the time they took, in milliseconds."""


class Lane(Protocol):
    """Executes loads, one after the other."""

    def loads(self) -> contextlib.AbstractContextManager[None]:
        """Assigns loads inside the block to the lane."""

    def fence(self) -> Fence:
        """Returns a fence after all loads since the last fence."""

    def drain(self) -> None:
        """Blocks until the lane is empty."""


class _Past:
    def __init__(self, milliseconds: float) -> None:
        self._milliseconds = milliseconds

    def done(self) -> bool:
        return True

    def wait(self) -> float:
        return self._milliseconds


class CpuLane:
    """Loads run in the caller; they are over at the end of the block."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def loads(self) -> Iterator[None]:
        """Times the block."""
        self._started = time.perf_counter()
        yield

    def fence(self) -> Fence:
        """Returns a fence that is already passed."""
        return _Past((time.perf_counter() - self._started) * 1000)

    def drain(self) -> None:
        """Does nothing, because nothing is in flight."""


class _EventFence:
    def __init__(self, start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        self._start, self._end = start, end

    def done(self) -> bool:
        return bool(self._end.query())

    def wait(self) -> float:
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))


class CudaLane:
    """Loads run on a separate stream, ordered after everything that the engine had enqueued before the update."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device=device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._start = torch.cuda.Event(enable_timing=True)

    @contextlib.contextmanager
    def loads(self) -> Iterator[None]:
        """Makes the lane's stream the current one."""
        with torch.cuda.stream(self._stream):
            self._start = torch.cuda.Event(enable_timing=True)
            self._start.record(self._stream)
            yield

    def fence(self) -> Fence:
        """Records an event after the loads; blocking, so that waiting uses no core."""
        end = torch.cuda.Event(enable_timing=True, blocking=True)
        end.record(self._stream)
        return _EventFence(self._start, end)

    def drain(self) -> None:
        """Waits only for this stream."""
        self._stream.synchronize()


def lane_for(device: torch.device) -> Lane:
    """Returns the lane for loads to ``device``."""
    return CudaLane(device) if device.type == "cuda" else CpuLane()
