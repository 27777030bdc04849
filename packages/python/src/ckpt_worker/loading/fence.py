"""When the loads of a bucket are over: at once on a CPU, behind an event on a GPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import torch


class Fence(Protocol):
    """Stands behind the loads of one bucket."""

    def done(self) -> bool:
        """Returns True if the loads are over; never blocks."""

    def wait(self) -> float:
        """Blocks until they are; the time they took, in milliseconds."""


class Lane(Protocol):
    """Where loads run, one after the other."""

    def loads(self) -> contextlib.AbstractContextManager[None]:
        """Loads inside the block belong to the lane."""

    def fence(self) -> Fence:
        """Stands behind all loads since the last fence."""

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
    """Loads run in the caller; they are over when the block is left."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def loads(self) -> Iterator[None]:
        """Times the block."""
        self._started = time.perf_counter()
        yield

    def fence(self) -> Fence:
        """A fence that is passed already."""
        return _Past((time.perf_counter() - self._started) * 1000)

    def drain(self) -> None:
        """Nothing is ever under way."""


class _EventFence:
    def __init__(self, start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        self._start, self._end = start, end

    def done(self) -> bool:
        return bool(self._end.query())

    def wait(self) -> float:
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))


class CudaLane:
    """Loads run on a stream of their own, ordered behind what the engine had enqueued before the update."""

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
        """An event recorded behind the loads; blocking, so that waiting costs no core."""
        end = torch.cuda.Event(enable_timing=True, blocking=True)
        end.record(self._stream)
        return _EventFence(self._start, end)

    def drain(self) -> None:
        """Waits for this stream alone."""
        self._stream.synchronize()


def lane_for(device: torch.device) -> Lane:
    """The lane on which loads to ``device`` run."""
    return CudaLane(device) if device.type == "cuda" else CpuLane()
