"""Writes a trainer's tensors into the memory of its rank program: one copy, with no memory between them."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

#: Bytes that a thread writes at a time; it looks for the end of the call in between.
_PIECE: Final = 64 << 20
#: Ranges of one system call; the kernel's limit is 1,024.
_RANGES: Final = 512
_THREADS: Final = 4
_CANCELLED: Final = "the call was cancelled"
#: The system does not let this process write to another one's memory.
_REFUSALS: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})


class _Range(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


#: Address here, address there, and size in bytes.
_Piece = tuple[int, int, int]


class HostWrites:
    """Tensors on the CPU that are written to the addresses that a rank program names. They must not change meanwhile."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._over.set()
        #: Size of all tensors in bytes.
        self.size = sum(tensor.nbytes for tensor in tensors)
        #: True if the system does not permit it.
        self.refused = False

    def stop(self) -> None:
        """Ends the writing early, or prevents it. Returns when nothing is written any more."""
        with self._lock:
            self._stopped.set()
        self._over.wait()

    def write(self, pid: int, addresses: Sequence[int], report: Callable[[int], None]) -> str | None:
        """Writes all tensors to addresses of process ``pid``. Returns the reason for which it did not.

        :param report: called with the bytes that are written.
        """
        with self._lock:
            if self._stopped.is_set():
                return _CANCELLED
            self._over.clear()
        pieces = iter(_batches(self._tensors, addresses))
        lock, failures, done = threading.Lock(), list[OSError](), [0]

        def work() -> None:
            while not self._stopped.is_set() and not failures:
                with lock:
                    batch = next(pieces, None)
                if batch is None:
                    return
                try:
                    _write(pid, batch)
                except OSError as reason:
                    failures.append(reason)
                    return
                with lock:
                    done[0] += sum(size for _, _, size in batch)
                    report(done[0])

        try:
            count = max(1, min(_THREADS, os.cpu_count() or 1, self.size // _PIECE))
            others = [threading.Thread(target=work, name="ckpt-write", daemon=True) for _ in range(count - 1)]
            for thread in others:
                thread.start()
            work()
            for thread in others:
                thread.join()
        finally:
            self._over.set()
        if failures:
            self.refused = failures[0].errno in _REFUSALS
            return f"cannot write to the memory of process {pid}: {failures[0].strerror}"
        return _CANCELLED if self._stopped.is_set() else None


def _batches(tensors: Sequence[torch.Tensor], addresses: Sequence[int]) -> Iterator[list[_Piece]]:
    """Divides tensors into batches for one system call each."""
    batch: list[_Piece] = []
    room = _PIECE
    for tensor, address in zip(tensors, addresses, strict=True):
        at, size = 0, tensor.nbytes
        while at < size:
            length = min(size - at, room)
            batch.append((tensor.data_ptr() + at, address + at, length))
            at += length
            room -= length
            if room == 0 or len(batch) == _RANGES:
                yield batch
                batch, room = [], _PIECE
    if batch:
        yield batch


def _write(pid: int, batch: Sequence[_Piece]) -> None:
    pending = list(batch)
    while pending:
        ours, theirs = (_Range * len(pending))(), (_Range * len(pending))()
        for index, (here, there, size) in enumerate(pending):
            ours[index], theirs[index] = _Range(here, size), _Range(there, size)
        written = _process_vm_writev()(pid, ours, len(pending), theirs, len(pending), 0)
        if written < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        pending = _rest(pending, written)


def _rest(pieces: Sequence[_Piece], written: int) -> list[_Piece]:
    """Returns what the system left: it writes pieces in order, and may end before the last one."""
    rest = []
    for here, there, size in pieces:
        skip = min(size, written)
        written -= skip
        if skip < size:
            rest.append((here + skip, there + skip, size - skip))
    return rest


def _absent(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


@functools.cache
def _process_vm_writev() -> Any:
    try:
        function = ctypes.CDLL(None, use_errno=True).process_vm_writev
    except AttributeError:
        return _absent
    function.restype = ctypes.c_ssize_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    return function
