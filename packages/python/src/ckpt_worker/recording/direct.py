"""State that a worker keeps between updates so that ranks can write into its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import ConflictError, DigestMismatchError, StaleRoutesError, StateError, UnsupportedError
from .casts import CastReplay
from .conflicts import TwinCheck
from .contents import Contents
from .recording import Recording, place_of
from .rehearsal import Described, Rehearsal, ValueReadError, unreached
from .replay import Replay
from .settle import Refusal, settle
from .shared_memory import give_back
from .spot_check import SpotCheck
from .sums import RouteSums
from .tracer import Tracer

#: Loads named tensors without data; returns the parameters that every checkpoint has to reach completely, by name.
Rehearse = Callable[[Rehearsal, Sequence[tuple[str, torch.Tensor]]], Mapping[str, torch.Tensor]]


class DirectState:
    """One engine worker's recording. Keep it as long as the engine; it holds no parameter."""

    def __init__(
        self,
        parameters: Callable[[], Mapping[str, torch.Tensor]],
        touched: Callable[[], None] = lambda: None,
        watched: Callable[[Tracer], None] = lambda tracer: None,
        unshared: str | None = None,
        rehearse: Rehearse | None = None,
    ) -> None:
        """:param parameters: everything that the engine computes with (parameters and buffers), by name, in its current state.
        :param touched: called before a rank writes: the parameters are not a complete version until the next commit.
        :param watched: called before the first load of a recorded update.
        :param unshared: reason why others must not write into the parameters; the worker then replays recorded copies itself.
        :param rehearse: lets the engine's loader load tensors that have no data, and returns the parameters that every
        checkpoint has to reach completely; it raises UnsupportedError with the reason if that is impossible.
        """
        self._parameters = parameters
        self._touched = touched
        self._watched = watched
        self._unshared = unshared
        self._rehearse = rehearse
        self._replay: Replay | None = None
        self._casts: CastReplay | None = None
        self._sums: RouteSums | None = None
        self._recording: Recording | None = None
        self._refusal = "no update was recorded"
        #: Tensors whose routes were found wrong, with reasons.
        self._distrusted: dict[str, str] = {}
        #: Parameters that a recorded update has changed in a way that could not be seen.
        self._unexplained: set[str] = set()

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
    def rehearses(self) -> bool:
        """True if the loader can be given tensors without data."""
        return self._rehearse is not None

    @property
    def refusal(self) -> str:
        """Reason why there is no recording."""
        return self._refusal

    def rehearse(self, tensors: Sequence[Described]) -> str | None:
        """Records what the loader would do with tensors of these names, dtypes and shapes. Nothing is loaded.

        :returns: the reason why that is impossible; an existing recording then stays.
        :raises StateError: if parameters have changed all the same. They are not a complete version then.
        """
        if self._rehearse is None:
            return "this engine's loader cannot be rehearsed"
        before = self._parameters()
        contents = Contents(before)
        try:
            return self._rehearsed(self._rehearse, tensors, before)
        finally:
            changed = contents.changed(self._parameters())
            if changed:
                self._forget("a rehearsal of the loader has changed parameters")
                self._rehearse = None
                self._touched()
                text = f"{len(changed)} parameters ({min(changed)}, …) changed while the loader was rehearsed"
                raise StateError(f"{text}: it writes in a way that cannot be held off; the next update is recorded instead")

    def _rehearsed(self, rehearse: Rehearse, tensors: Sequence[Described], before: Mapping[str, torch.Tensor]) -> str | None:
        try:
            rehearsal = Rehearsal(tensors, frozenset(before))
            with rehearsal.loads() as named:
                demanded = rehearse(rehearsal, named)
            rehearsal.close()
            after = self._parameters()
            if {name: place_of(one) for name, one in before.items()} != {name: place_of(one) for name, one in after.items()}:
                raise Refusal("it replaces parameters")
            alone = unreached(rehearsal, demanded)
            if alone:
                raise Refusal(f"it was not seen to fill {len(alone)} parameters ({min(alone)}, …)")
            found = settle(rehearsal, after, self._unshared, self._distrusted)
        except Exception as error:  # a loader may do anything with tensors of this kind
            kind = "" if isinstance(error, Refusal | UnsupportedError | ValueReadError) else f"{type(error).__name__}: "
            return f"the loader cannot be rehearsed: {kind}{error}"
        self._forget("")
        self._recording = found
        return None

    def warm(self) -> None:
        """Does once what takes longer the first time in a process: compiling kernels, making tables of what is summed."""
        found = self.recording
        if found is not None:
            self.sums(found.id)

    def watch(self) -> Tracer:
        """Starts recording an update."""
        tracer = Tracer(frozenset(self._parameters()))
        self._watched(tracer)
        tracer.contents = Contents(self._parameters())
        return tracer

    def loaded(self, tracer: Tracer) -> None:
        """Called after the last load of a recorded update, before its post-processing."""
        tracer.hold_against(self._parameters())
        # Equal bytes would hide the same write the next time.
        self._unexplained |= {*tracer.unexplained}
        tracer.unexplained = sorted(self._unexplained)

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

    def casts(self) -> CastReplay:
        """Returns the casts that this worker makes instead of its loader. Raises StaleRoutesError."""
        found = self._known()
        if self._casts is None:
            self._casts = CastReplay(found.casts, self._parameters())
        return self._casts

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
            if self._recording is not None and self._recording.rehearsed:
                self._rehearse = None  # with data the loader does something else
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
        return self._sums.compute().astype("<u8", copy=False).tobytes()

    def _give_back(self) -> None:
        """Parameters that nobody else writes to need not be in shared memory."""
        found = self._recording
        used = set() if found is None or isinstance(found.handles, str) else set(found.addresses)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in self._parameters().values() if t.numel()}
        give_back(storage for address, storage in storages.items() if address not in used)

    def _forget(self, why: str) -> None:
        self._recording, self._replay, self._casts, self._sums, self._refusal = None, None, None, None, why

    def _known(self) -> Recording:
        found = self.recording
        if found is None:
            raise StaleRoutesError(self._refusal)
        return found
