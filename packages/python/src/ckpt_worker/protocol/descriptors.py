"""Open files that ZeroMQ needs: where its threads get none it ends the process, here an engine's worker, without a word."""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

from ..errors import ShortageError

#: Open files that a socket takes, with the threads of its context, its monitor and its connection.
_SOCKET_DESCRIPTORS: Final = 32


def require_socket_descriptors(what: str) -> None:
    """Makes sure that a ZeroMQ socket can be made.

    :raises ShortageError: naming ``what``, the limit and how many files are open.
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
        text = f"{what} needs {_SOCKET_DESCRIPTORS} open files, {free} are left{_limits(error.errno == errno.EMFILE)}"
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
