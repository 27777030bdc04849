"""Moves the memory of parameters on the CPU into shared memory and back: all of it, or none."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import UnsupportedError

_DIRECTORY: Final = "/dev/shm"
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
#: Frees a file's memory and keeps its size: processes that have it mapped still find pages there.
_PUNCH_HOLE: Final = 0x02 | 0x01
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_MIB: Final = 1 << 20


@dataclass
class _Moved:
    """A storage that was moved here. torch keeps the descriptor open as long as the storage is alive."""

    storage: StorageWeakRef
    descriptor: int
    size: int
    shared: bool = True


#: By address. Storages that others have shared are not included, and stay unchanged.
_moved: dict[int, _Moved] = {}


def is_shared(storage: torch.UntypedStorage) -> bool:
    """Returns True if other processes can map the storage."""
    found = _find(storage)
    return bool(storage.is_shared()) if found is None else found.shared


def move_to_shared(storages: Sequence[torch.UntypedStorage], reserve: int = 0) -> None:
    """Moves storages to shared memory, with all tensors over them.

    :param reserve: bytes of /dev/shm that must remain.
    :raises UnsupportedError: if there is no space for all of them, or one cannot be moved. None is moved then.
    """
    private = {storage.data_ptr(): storage for storage in storages if not is_shared(storage)}
    needed = sum(_pages(storage.nbytes()) for storage in private.values())
    room = _room()
    if private and room is not None and needed + reserve > room:
        text = f"{_DIRECTORY} has {room // _MIB} MiB free, but parameters need {needed // _MIB} MiB"
        aside = f" and {reserve // _MIB} MiB are reserved for buckets" if reserve else ""
        raise UnsupportedError(f"parameters cannot be moved to shared memory: {text}{aside}; give the container a larger one")
    done: list[torch.UntypedStorage] = []
    try:
        for storage in private.values():
            _move(storage)
            done.append(storage)
    except (RuntimeError, OSError) as error:
        give_back(done)
        raise UnsupportedError(f"parameters cannot be moved to shared memory: {error}") from error


def give_back(storages: Iterable[torch.UntypedStorage]) -> None:
    """Moves storages that were moved here back to private memory. Their addresses, and all tensors over them, stay."""
    for storage in storages:
        found = _find(storage)
        if found is None or not found.shared:
            continue
        with _mapped(found.size, -1) as memory:
            ctypes.memmove(memory, storage.data_ptr(), found.size)
            _replace(memory, storage.data_ptr(), found.size)
        found.shared = False
        # Only a file without memory remains in /dev/shm.
        if _libc().fallocate64(found.descriptor, _PUNCH_HOLE, ctypes.c_int64(0), ctypes.c_int64(_pages(found.size))) != 0:
            raise _os_error("fallocate")


def _move(storage: torch.UntypedStorage) -> None:
    found = _find(storage)
    if found is None:
        # As in torch.multiprocessing: the tensors over the storage follow.
        descriptor, size = storage._share_fd_cpu_()
        _moved[storage.data_ptr()] = _Moved(StorageWeakRef(storage), descriptor, size)
        return
    os.posix_fallocate(found.descriptor, 0, found.size)
    with _mapped(found.size, found.descriptor) as memory:
        ctypes.memmove(memory, storage.data_ptr(), found.size)
        _replace(memory, storage.data_ptr(), found.size)
    found.shared = True


def _find(storage: torch.UntypedStorage) -> _Moved | None:
    for address in [address for address, moved in _moved.items() if moved.storage.expired()]:
        del _moved[address]
    return _moved.get(storage.data_ptr())


def _room() -> int | None:
    try:
        found = os.statvfs(_DIRECTORY)
    except OSError:
        return None  # moving will report the problem
    return found.f_bavail * found.f_frsize


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    return libc


@contextmanager
def _mapped(size: int, descriptor: int) -> Iterator[int]:
    """Maps memory of a file, or private memory without one; unmapped unless :func:`_replace` has moved it."""
    flags = mmap.MAP_SHARED if descriptor >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    libc = _libc()
    length = ctypes.c_size_t(_pages(size))
    memory = libc.mmap(None, length, protection, flags, descriptor, ctypes.c_int64(0))
    if memory in (None, _MAP_FAILED):
        raise _os_error("mmap")
    try:
        yield memory
    except BaseException:
        libc.munmap(ctypes.c_void_p(memory), length)
        raise


def _replace(memory: int, address: int, size: int) -> None:
    """Moves mapped memory to the address of a storage, in one step."""
    length = ctypes.c_size_t(_pages(size))
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
    placed = _libc().mremap(ctypes.c_void_p(memory), length, length, flags, ctypes.c_void_p(address))
    if placed in (None, _MAP_FAILED):
        raise _os_error("mremap")


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, f"{what}: {os.strerror(number)}")
