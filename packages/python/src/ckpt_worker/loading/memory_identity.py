"""What shared memory is, whatever it is called: processes that hand it to each other compare what they opened."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from ..errors import RingError

SHM_DIRECTORY: Final = "/dev/shm"


@dataclass(frozen=True)
class MemoryIdentity:
    """Device, inode and size in bytes of an open file, as ``fstat`` has them; the first two as text: they may have 64 bits."""

    device: str
    inode: str
    size: int

    @classmethod
    def of(cls, descriptor: int) -> MemoryIdentity:
        """Of an open file."""
        status = os.fstat(descriptor)
        return cls(str(status.st_dev), str(status.st_ino), status.st_size)


def open_shared(name: str, offered: MemoryIdentity | None, what: str) -> int:
    """A read-only descriptor of the object ``name`` in /dev/shm, checked on what was opened.

    :param offered: what its owner says that it is; ``None`` where it did not say.
    :param what: names it in errors.
    :raises RingError: when it is not there, no regular file of /dev/shm, another user's, or not the object that was offered.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise RingError(f"{what}: name {name!r} is not a plain file name")
    path = os.path.join(SHM_DIRECTORY, name)
    try:
        # O_NONBLOCK: a FIFO by that name must not stop us; it is refused below.
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
        raise RingError(f"{what}: {path} does not lie in {SHM_DIRECTORY} itself")
    if status.st_uid != os.geteuid():
        raise RingError(f"{what}: {path} belongs to user {status.st_uid}, not {os.geteuid()}")
    found = MemoryIdentity(str(status.st_dev), str(status.st_ino), status.st_size)
    if offered is not None and found != offered:
        raise RingError(f"{what}: {path} is {found} now, not {offered}: it was replaced, or this is another /dev/shm")
