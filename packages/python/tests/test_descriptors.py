"""A process with few open files left gets an error in cases in which ZeroMQ would end it."""

from __future__ import annotations

import gc
import os
import resource
import socket
from pathlib import Path

import pytest

from ckpt_worker.errors import ShortageError, SilenceError
from ckpt_worker.protocol.connection import Connection

_REFUSED, _CONNECTED, _OTHERWISE = 3, 4, 5


def _connect(path: Path, spare: int) -> int:
    """Result of a connection with ``spare`` open files left."""
    gc.collect()  # shared memory that other tests have left would give its descriptors back later
    limit = len(os.listdir("/proc/self/fd")) - 1 + spare
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        with Connection(f"ipc://{path}", 0.2, lambda: False) as connection:
            connection.receive()
    except SilenceError:
        return _CONNECTED
    except ShortageError as error:
        named = f"RLIMIT_NOFILE of process {os.getpid()}" in str(error) and f" of {limit} " in str(error)
        return _REFUSED if named and error.code == "OUT_OF_MEMORY" else _OTHERWISE
    return _OTHERWISE


@pytest.mark.parametrize(("spare", "expected"), [(1, _REFUSED), (3, _REFUSED), (5, _REFUSED), (80, _CONNECTED)])
def test_a_connection_is_made_or_refused_with_the_limit(spare: int, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = os.fork()
        if child == 0:
            status = _OTHERWISE
            try:
                status = _connect(path, spare)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), f"ended by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) == expected
