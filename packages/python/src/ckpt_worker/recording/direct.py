"""State that a worker keeps between updates so that ranks can write into its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ..errors import ConflictError, DigestMismatchError, StaleRoutesError, UnsupportedError
from .conflicts import TwinCheck
from .contents import Contents
from .recording import Recording
from .replay import Replay
from .settle import Refusal, settle
from .shared_memory import give_back
from .spot_check import SpotCheck
from .sums import RouteSums
from .tracer import Tracer


class DirectState:
    """One engine worker's recording. Keep it as long as the engine; it holds no parameter."""

    def __init__(
        self,
        parameters: Callable[[], Mapping[str, torch.Tensor]],
        touched: Callable[[], None] = lambda: None,
        watched: Callable[[Tracer], None] = lambda tracer: None,
        unshared: str | None = None,
    ) -> None:
        """:param parameters: everything that the engine computes with (parameters and buffers), by name, in its current state.
        :param touched: called before a rank writes: the parameters are not a complete version until the next commit.
        :param watched: called before the first load of a recorded update.
        :param unshared: reason why others must not write into the parameters; the worker then replays recorded copies itself.
        """
        self._parameters = parameters
        self._touched = touched
        self._watched = watched
        self._unshared = unshared
        self._replay: Replay | None = None
        self._sums: RouteSums | None = None
        self._recording: Recording | None = None
        self._refusal = "no update was recorded"
        #: Tensors whose routes were found wrong, with reasons.
        self._distrusted: dict[str, str] = {}

    @property
    def id(self) -> str | None:
        """Id of the recording, if there is one that matches the parameters. One that does not is dropped."""
        found = self.recording
        return None if found is None else found.id

    @property
    def recording(self) -> Recording | None:
        """The recording, if there is one that matches the parameters. One that does not is dropped."""
        if self._recording is not None and not self._recording.fits(self._parameters()):
            self._forget("parameters have moved since the recorded update")
        return self._recording

    @property
    def refusal(self) -> str:
        """Reason why there is no recording."""
        return self._refusal

    def watch(self) -> Tracer:
        """Starts recording an update."""
        tracer = Tracer(frozenset(self._parameters()))
        self._watched(tracer)
        tracer.contents = Contents(self._parameters())
        return tracer

    def loaded(self, tracer: Tracer) -> None:
        """Called after the last load of a recorded update, before its post-processing."""
        tracer.hold_against(self._parameters())

    def record(self, tracer: Tracer) -> None:
        """Replaces the recording with the new one.

        :raises ConflictError: if two tensors with different bytes went to one place.
        """
        self._forget("")
        tracer.close()
        try:
            self._recording = settle(tracer, self._parameters(), self._unshared, self._distrusted)
        except Refusal as refusal:
            self._refusal = str(refusal)
        except ConflictError:
            self._refusal = "two tensors with different bytes went to one place"
            raise
        finally:
            self._give_back()

    def handles(self) -> list[dict[str, Any]]:
        """Returns the storages' handles. Raises UnsupportedError with the reason if they cannot be shared, StaleRoutesError."""
        found = self._known()
        if isinstance(found.handles, str):
            raise UnsupportedError(found.handles)
        return found.handles

    def replay(self) -> Replay:
        """Returns the recorded copies, for this worker to make. Raises StaleRoutesError."""
        found = self._known()
        if self._replay is None:
            self._replay = Replay(found, self._parameters())
        return self._replay

    def begin(self, recording: str) -> TwinCheck:
        """Called before parameters are written, by a rank or by a replay. Show the update's tensors to the result.

        :raises StaleRoutesError: if the recording is a different one, or does not match any more.
        """
        found = self._known()
        if found.id != recording:
            raise StaleRoutesError("the rank knows a different recording than this worker")
        self._touched()
        return TwinCheck(found.twins)

    def spot_check(self, check: SpotCheck, load: Callable[[Iterable[tuple[str, torch.Tensor]]], None]) -> None:
        """Called when everything is written: lets the engine's loader load a few tensors over it.

        :raises DigestMismatchError: if that changes anything. The recording is dropped; these tensors are never routed again.
        """
        try:
            check.run(load, self._parameters)
        except DigestMismatchError:
            self._distrusted.update(dict.fromkeys(check.names, "a spot check found its recorded routes wrong"))
            self._forget("a spot check found recorded routes wrong")
            raise

    def sums(self, recording: str) -> bytes:
        """Returns sums of the parameters' bytes for each route, 8 bytes each, little-endian.

        :raises StaleRoutesError: if the recording is a different one, or does not match any more.
        """
        found = self._known()
        if found.id != recording:
            raise StaleRoutesError("the rank knows a different recording than this worker")
        if self._sums is None:
            self._sums = RouteSums(found, self._parameters())
        return b"".join(value.to_bytes(8, "little") for value in self._sums.compute())

    def _give_back(self) -> None:
        """Parameters that nobody else writes to need not be in shared memory."""
        found = self._recording
        used = set() if found is None or isinstance(found.handles, str) else set(found.addresses)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in self._parameters().values() if t.numel()}
        give_back(storage for address, storage in storages.items() if address not in used)

    def _forget(self, why: str) -> None:
        self._recording, self._replay, self._sums, self._refusal = None, None, None, why

    def _known(self) -> Recording:
        found = self.recording
        if found is None:
            raise StaleRoutesError(self._refusal)
        return found
