"""Effects of an update on this process: the ring it maps, the tensors it hands to the loader, and the recording."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

import torch

from ..errors import ProtocolError, StateError, UnsupportedError
from ..loading.bucket import open_bucket
from ..loading.fence import Fence, lane_for
from ..loading.ring import Ring, open_ring
from ..loading.threads import bounded_threads, free_processors
from ..protocol.messages import Attach, Bucket, Direct
from ..recording import CastReplay, DirectState, Replay, SpotCheck, Tracer, TwinCheck

Named = tuple[str, torch.Tensor]
#: Takes the tensors of one bucket. They are in the ring: copy what is needed, keep none of them, write to none of them.
Loader = Callable[[Iterable[tuple[str, torch.Tensor]]], None]


class Load:
    """The loads of one update, from mapping the ring to the post-processing. Its caller has checked the order of messages."""

    def __init__(
        self, loader: Loader, finish: Callable[[], None] | None, device: torch.device, direct: DirectState | None
    ) -> None:
        self._loader = loader
        self._finish = finish
        self._device = device
        self._direct = direct
        self._lane = lane_for(device)
        self._threads = free_processors()
        self._ring: Ring | None = None
        self._tracer: Tracer | None = None
        self._replay: Replay | None = None
        self._casts: CastReplay | None = None
        self._twins: TwinCheck | None = None
        self._spot: SpotCheck | None = None
        self.tensors = self.bytes = self.buckets = 0
        #: Last tensor handed to the loader: the likely cause of its exception.
        self.current: str | None = None

    def attach(self, message: Attach) -> None:
        """Maps the ring; counts start again."""
        self.unmap()
        self._ring = None if message.ring is None else open_ring(message.ring, self._device)
        self._tracer = self._direct.watch() if message.record and self._direct is not None else None
        self._replay, self._casts, self._twins, self._spot = None, None, None, None
        self.tensors = self.bytes = self.buckets = 0

    def begin_direct(self, message: Direct) -> int | None:
        """Called when a rank writes into parameters from now on; returns the number of tensors that recorded copies load
        instead, if any.

        :raises UnsupportedError: if this engine does not allow it.
        :raises StateError: if this update is recorded.
        """
        if self._direct is None:
            raise UnsupportedError("this engine does not allow writes into its parameters")
        if self._tracer is not None:
            raise StateError("a direct came in an update that is recorded")
        if self._device.type == "cuda":
            # Nothing of the engine reads or writes its parameters any more, on any stream.
            torch.cuda.synchronize(self._device)
        self._twins = self._direct.begin(message.routes)
        self._spot = SpotCheck(message.check) if message.check else None
        self._replay = self._direct.replay() if message.replay else None
        self._casts = self._direct.casts()
        return None if self._replay is None else self._replay.tensors

    def bucket(self, message: Bucket, attached: Attach) -> Fence:
        """Loads a bucket; returns a fence that tells when the ring's bytes are no longer needed.

        :raises StateError: if no ring is mapped.
        :raises ProtocolError: for more than was announced.
        """
        if self._ring is None:
            raise StateError("a bucket came after the release, or without a ring")
        self.tensors += len(message.tensors)
        self.bytes += sum(entry.size for entry in message.tensors)
        if self.tensors > attached.tensors or self.bytes > attached.size:
            raise ProtocolError(f"more arrived than the announced {attached.tensors} tensors, {attached.size} bytes")
        with self._lane.loads(), bounded_threads(self._threads):
            named = self._left_for_loader(message, self._ring)
            if named or (self._replay is None and self._spot is None):
                with self._watch(message, named, self._ring) as given:
                    feed = self._feed(given)
                    self._loader(feed)
                    feed.close()
                if self._casts is not None:
                    self._casts.compare(self._ring.data, message.tensors)
            fence = self._lane.fence()
        self.current = None
        self.buckets += 1
        return fence

    def release(self, attached: Attach) -> None:
        """Ends the loads: checks, post-processing, the recording.

        :raises ProtocolError: if less arrived than was announced.
        """
        if self.tensors != attached.tensors or self.bytes != attached.size:
            came = f"{self.tensors} tensors, {self.bytes} bytes arrived"
            raise ProtocolError(f"{came} of the announced {attached.tensors} tensors, {attached.size} bytes")
        self._lane.drain()
        if self._twins is not None:
            self._twins.check()
        if self._spot is not None and self._direct is not None:
            self._direct.spot_check(self._spot, self._load_now)
        if self._tracer is not None and self._direct is not None:
            self._direct.loaded(self._tracer)
        if self._finish is not None:
            with self._lane.loads():
                self._finish()
            self._lane.drain()
        self.unmap()
        if self._direct is not None and self._tracer is not None:
            self._direct.record(self._tracer)
        self._tracer, self._spot, self._twins = None, None, None

    def drain(self) -> None:
        """Waits for all loads."""
        self._lane.drain()

    def unmap(self) -> None:
        """Unmaps the ring, if one is mapped.

        :raises RingError: if tensors over it are still in use.
        """
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    def _left_for_loader(self, message: Bucket, ring: Ring) -> list[Named]:
        """Checks the bucket's tensors and replays recorded copies; returns the tensors for the loader."""
        named = open_bucket(ring.data, message.tensors)
        if self._twins is not None:
            for entry in message.tensors:
                self._twins.saw(entry, ring.data)
        if self._spot is not None:
            self._spot.keep(named)
        if self._replay is not None:
            left = self._replay.run(ring.data, message.tensors)
            named = [one for one in named if one[0] in left]
        elif self._spot is not None:
            named = [one for one in named if one[0] not in self._spot.names]
        return named if self._casts is None else self._casts.run(ring.data, message.tensors, named)

    def _watch(self, message: Bucket, named: list[Named], ring: Ring) -> contextlib.AbstractContextManager[list[Named]]:
        """Returns the tensors for the loader, watched if the update is recorded."""
        if self._tracer is None:
            return contextlib.nullcontext(named)
        return self._tracer.watch(ring.data, message.tensors, named)

    def _feed(self, named: list[Named]) -> Generator[Named, None, None]:
        for name, tensor in named:
            self.current = name
            yield name, tensor

    def _load_now(self, named: Iterable[Named]) -> None:
        with self._lane.loads():
            self._loader(named)
        self._lane.drain()
