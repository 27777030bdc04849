"""File descriptors that ZeroMQ needs: if its threads get none, it silently ends the process, here an engine's worker."""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

from ..errors import ShortageError

#: File descriptors that a socket needs, including the threads of its context, its monitor and its connection.
_SOCKET_DESCRIPTORS: Final = 32


def require_socket_descriptors(what: str) -> None:
    """Checks that a ZeroMQ socket can be created.

    :raises ShortageError: naming ``what``, the limit and the number of open files.
    """
    taken: list[int] = []
    try:
        while len(taken) < _SOCKET_DESCRIPTORS:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return
        free = len(taken)
        while taken:
            os.close(taken.pop())
        text = f"{what} needs {_SOCKET_DESCRIPTORS} open files, but only {free} are left{_limits(error.errno == errno.EMFILE)}"
        raise ShortageError(text) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _limits(own: bool) -> str:
    if not own:
        return " on this machine (/proc/sys/fs/file-max): close files of other processes, or raise it"
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    return (
        f" of {limit} (RLIMIT_NOFILE of process {os.getpid()}; {used} are open): close some, or raise it (ulimit -n, "
        "docker run --ulimit nofile=N)"
    )
