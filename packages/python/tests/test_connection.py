"""A worker's errors if it cannot reach the rank's socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_worker.errors import PeerLostError, UnreachableError
from ckpt_worker.protocol.connection import Connection


def _never() -> bool:
    return False


def _missing(path: Path) -> Path:
    return path / "gone" / "worker.sock"


def _dangling(path: Path) -> Path:
    (path / "link").symlink_to(path / "nowhere")
    return path / "link"


def _under_a_file(path: Path) -> Path:
    (path / "file").write_text("")
    return path / "file" / "worker.sock"


@pytest.mark.parametrize("make", [_missing, _dangling, _under_a_file])
def test_names_a_socket_that_cannot_be_seen(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    began = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        Connection(f"ipc://{path}", 60.0, _never)
    assert time.monotonic() - began < 30
    for part in (str(path), str(os.getpid()), f"user {os.geteuid()}", "XDG_RUNTIME_DIR"):
        assert part in str(caught.value)


def test_names_a_directory_of_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    os.chmod(tmp_path, 0o700)
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                Connection(f"ipc://{path}", 60.0, _never)
            except UnreachableError as error:
                os._exit(0 if "Permission denied" in str(error) and "65534" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_takes_a_socket_that_comes_a_moment_later_and_abstract_names(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        socket.socket(socket.AF_UNIX).bind(str(path))
        os._exit(0)
    with Connection(f"ipc://{path}", 60.0, _never):
        os.waitpid(child, 0)
    with Connection("ipc://@ckpt-test-abstract", 60.0, _never):
        pass


@pytest.mark.parametrize("listening", [False, True])
def test_a_rank_that_gives_up_before_the_worker_has_connected_is_not_waited_for(tmp_path: Path, listening: bool) -> None:
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as rank:
        rank.bind(str(path))
        if listening:
            rank.listen()
        began = time.monotonic()
        with Connection(f"ipc://{path}", 600.0, _never) as connection:
            path.unlink()
            with pytest.raises(PeerLostError, match=str(path)):
                connection.receive()
    assert time.monotonic() - began < 60
