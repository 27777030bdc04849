"""Files that must stay unchanged: opened once, and identified by more than their names."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ckpt_worker.errors import WorkerError

#: Resolution of change times, in nanoseconds.
_TICK_NS: Final = 20_000_000


class FileChangedError(WorkerError):
    """A file was replaced or written to while it was read; ``file`` names it. Reading again may succeed."""

    code = "CHECKPOINT_CHANGED"

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file} changed while it was read: {why}; try again once its writer is done")
        #: Path of the file.
        self.file = file


@dataclass(frozen=True)
class FileIdentity:
    """Identity of a file's content; a file that is replaced, written to or truncated has a different identity."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> FileIdentity:
        """Returns the identity of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def opened(path: str, identity: FileIdentity | None = None) -> Iterator[tuple[str, FileIdentity]]:
    """Opens a regular file, and yields its identity and a path that leads to that file whatever happens to its name.

    :param identity: identity that the file must still have.
    :raises FileChangedError: naming the file: it is a different one, or it changed before the end of the block.
    :raises OSError: it cannot be opened, or is not a regular file.
    """
    # O_NONBLOCK: a FIFO of that name must not block us.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        found = FileIdentity.of(descriptor)
        if identity is None and time.time_ns() - found.changed_ns < _TICK_NS:
            # A change within the same tick of the kernel's clock would leave no trace.
            time.sleep(_TICK_NS / 1e9)
        if identity is not None and found != identity:
            raise FileChangedError(path, "it is not the file that its header was read from")
        yield f"/proc/self/fd/{descriptor}", found
        if FileIdentity.of(descriptor) != found:
            raise FileChangedError(path, "it was written to while it was read")
    finally:
        os.close(descriptor)
