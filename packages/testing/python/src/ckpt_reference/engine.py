"""The reference engine itself: parameters, version, and checks of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from ckpt_worker.errors import StateError
from ckpt_worker.loading.cuda_driver import device_uuid
from ckpt_worker.loading.digest import digest, flat_bytes
from ckpt_worker.recording import DirectState
from ckpt_worker.update import UpdateResult, run_update

from .files import CheckpointFiles
from .parameters import Parameters

#: Time in seconds for which a call waits for the previous one: an update's last answer arrives a moment before its call is
#: over.
_PATIENCE: Final = 60.0


@dataclass(frozen=True)
class Verification:
    """Result of comparing the parameters with files."""

    verified: bool
    parameters: int
    bytes: int
    mismatches: list[str]


class ReferenceEngine:
    """One worker process's engine; its methods may be called from any thread and wait for each other."""

    def __init__(self, tp_rank: int, tp_size: int, device: torch.device, uuid: str = "", unshared: str | None = None) -> None:
        """:param unshared: reason why its parameters must not be shared with ranks, if so."""
        self.uuid = uuid or device_uuid(device)
        self._tp_rank, self._tp_size, self._device = tp_rank, tp_size, device
        self._parameters = Parameters(tp_rank, tp_size, device)
        self._direct = DirectState(lambda: self._parameters.tensors, self._touch, unshared=unshared)
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._version: str | None = None
        self._dirty = False

    @property
    def version(self) -> str | None:
        """Served version; None before the first commit."""
        return self._version

    @property
    def dirty(self) -> bool:
        """True if the parameters are not those of one complete committed version."""
        return self._dirty

    def update(self, address: str, token: str, timeout: float) -> UpdateResult:
        """Takes one update. Raises the errors of :func:`ckpt_worker.run_update`."""
        with self._turns():
            try:
                return run_update(
                    address,
                    token,
                    self._load,
                    self._parameters.finish,
                    self._device,
                    timeout,
                    commit=self._commit,
                    engine="reference-python",
                    device_uuid=self.uuid,
                    cancelled=self._stopping.is_set,
                    direct=self._direct,
                )
            finally:
                self._parameters.discard()

    def digests(self) -> dict[str, int]:
        """Returns the digest of every parameter's bytes."""
        with self._turns():
            return {name: digest(tensor) for name, tensor in self._parameters.tensors.items()}

    def verify(self, paths: list[str]) -> Verification:
        """Loads the files into other memory, parameter by parameter, and compares every byte."""
        with self._turns():
            files = CheckpointFiles(paths)
            parts: dict[str, list[str]] = {}
            for name, shape in files.shapes().items():
                parts.setdefault(self._parameters.place(name, shape).parameter, []).append(name)
            own = self._parameters.tensors
            mismatches = sorted(own.keys() - parts.keys())
            total = 0
            for parameter, names in parts.items():
                fresh = Parameters(self._tp_rank, self._tp_size, self._device)
                fresh.load(files.read(names, self._device))
                fresh.finish()
                expected, found = fresh.tensors[parameter], own.get(parameter)
                total += expected.numel() * expected.element_size()
                if found is None or not _same(expected, found):
                    mismatches.append(parameter)
            return Verification(not mismatches and bool(parts), len(parts), total, mismatches)

    def poison(self) -> None:
        """Overwrites all parameters, so that no later check can pass on old bytes."""
        with self._turns():
            self._dirty = True
            self._parameters.poison()

    def stop(self) -> None:
        """Ends a running update; its call raises AbortedError."""
        self._stopping.set()

    def idle(self, timeout: float) -> bool:
        """Returns True if no call is running, after waiting up to ``timeout`` seconds."""
        if not self._turn.acquire(timeout=timeout):
            return False
        self._turn.release()
        return True

    def _touch(self) -> None:
        self._dirty = True

    def _load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._dirty = True
        self._parameters.load(tensors)

    def _commit(self, version: str) -> None:
        self._version = version
        self._dirty = False

    @contextlib.contextmanager
    def _turns(self) -> Iterator[None]:
        if self._stopping.is_set():
            raise StateError("the engine is shutting down")
        if not self._turn.acquire(timeout=_PATIENCE):
            raise StateError(f"another call has kept the engine busy for {_PATIENCE:g} s")
        try:
            yield
        finally:
            self._turn.release()


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(flat_bytes(left), flat_bytes(right))
