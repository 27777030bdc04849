"""Identity of shared memory, independent of its name: processes that pass it to each other compare the opened object."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from ..errors import RingError

SHM_DIRECTORY: Final = "/dev/shm"


@dataclass(frozen=True)
class MemoryIdentity:
    """Device, inode and size in bytes of an open file, from ``fstat``; the first two as text, because they may have 64 bits."""

    device: str
    inode: str
    size: int

    @classmethod
    def of(cls, descriptor: int) -> MemoryIdentity:
        """Returns the identity of an open file."""
        status = os.fstat(descriptor)
        return cls(str(status.st_dev), str(status.st_ino), status.st_size)


def open_shared(name: str, offered: MemoryIdentity | None, what: str) -> int:
    """Returns a read-only descriptor of the object ``name`` in /dev/shm, after checking the opened object.

    :param offered: its owner's description; ``None`` if it sent none.
    :param what: names it in errors.
    :raises RingError: if it does not exist, is not a regular file of /dev/shm, belongs to a different user, or is not the
    offered object.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise RingError(f"{what}: name {name!r} is not a plain file name")
    path = os.path.join(SHM_DIRECTORY, name)
    try:
        # O_NONBLOCK: a FIFO of that name must not block us; it is refused below.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RingError(f"{what}: cannot open {path}: {error.strerror}") from error
    try:
        _check(descriptor, path, offered, what)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int, path: str, offered: MemoryIdentity | None, what: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RingError(f"{what}: {path} is not a regular file")
    if status.st_dev != os.stat(SHM_DIRECTORY).st_dev:
        raise RingError(f"{what}: {path} is not directly in {SHM_DIRECTORY}")
    if status.st_uid != os.geteuid():
        raise RingError(f"{what}: {path} belongs to user {status.st_uid}, not {os.geteuid()}")
    found = MemoryIdentity(str(status.st_dev), str(status.st_ino), status.st_size)
    if offered is not None and found != offered:
        raise RingError(f"{what}: {path} is {found} now, not {offered}: it was replaced, or this is a different /dev/shm")
