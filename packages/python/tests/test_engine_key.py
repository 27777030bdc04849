"""Who may make an engine's workers accept an update, and from which sockets they accept it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ckpt_worker import UnauthorizedError
from ckpt_worker.protocol import engine_key
from ckpt_worker.protocol.engine_call import check_listening, parse_call
from ckpt_worker.protocol.engine_key import FILE_VARIABLE, KEY_VARIABLE

NOBODY = 65_534
KEY = "a key of this test"
CALL: dict[str, Any] = {
    "endpoints": [{"rank": 0, "deviceUuid": "HOST-0", "address": "ipc:///run/0.sock"}],
    "token": "a token that the caller chose",
    "timeoutMs": 2500,
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user")


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)


def secret(path: Path, text: str = KEY, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def _give_away(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


def test_a_call_needs_the_key_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = engine_key.engine_key()
    assert own is not None
    for variable, value, key in (
        ("", "", own),
        (FILE_VARIABLE, str(secret(tmp_path / "key", f"{KEY}\n")), KEY),
        (KEY_VARIABLE, "a different key of this test", "a different key of this test"),
    ):
        if variable:
            monkeypatch.setenv(variable, value)
        for wrong in ({}, {"key": ""}, {"key": key[:-1]}, {"key": key + "x"}, {"key": "off"}):
            with pytest.raises(UnauthorizedError, match=KEY_VARIABLE):
                parse_call({**CALL, **wrong})
        assert parse_call({**CALL, "key": key}).timeout_ms == 2500


def test_it_is_switched_off_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "off")
    assert parse_call(CALL).timeout_ms == 2500
    for value in ("", "0", "false", "OFF", "none"):
        monkeypatch.setenv(KEY_VARIABLE, value)
        with pytest.raises(UnauthorizedError):
            parse_call(CALL)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: secret(path, mode=0o644), "can be read by others"),
        (lambda path: secret(path, mode=0o620), "can be read by others"),
        (lambda path: secret(path, "too short"), "can be guessed"),
        (lambda path: secret(path, ""), "can be guessed"),
        (lambda path: secret(path, "x" * 5000), "5000 bytes"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: os.mkfifo(path, 0o600), "is not a file"),
        pytest.param(lambda path: os.chown(secret(path), NOBODY, NOBODY), "belongs to user 65534", marks=as_root),
    ],
)
def test_a_file_that_others_could_know_is_no_key(
    make: Callable[[Path], object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "key")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "key"))
    with pytest.raises(UnauthorizedError, match=f"{FILE_VARIABLE}.*{why}"):
        parse_call({**CALL, "key": KEY})


@as_root
def test_a_file_of_root_may_be_readable_by_an_own_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret(path, mode=0o440)
    os.chown(path, 0, NOBODY)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    with pytest.raises(UnauthorizedError, match="can be read by others"):
        engine_key.engine_key()
    groups = os.getgroups()
    os.setgroups([NOBODY])
    try:
        with pytest.warns(RuntimeWarning, match=f"group {NOBODY}"):
            assert engine_key.engine_key() == path.read_text().strip()
        path.chmod(0o460)
        with pytest.raises(UnauthorizedError, match="can be read by others"):
            engine_key.engine_key()
    finally:
        os.setgroups(groups)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (path.mkdir(), path.chmod(0o755)),
        lambda path: path.write_text("x"),
        lambda path: path.symlink_to(path.parent),
        pytest.param(_give_away, marks=as_root),
    ],
)
def test_the_user_s_key_is_not_taken_from_where_others_could_put_it(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "user")
    with pytest.raises(UnauthorizedError, match=f"set {FILE_VARIABLE}"):
        engine_key._user_key(tmp_path / "user")


def test_the_user_s_key_is_made_once_by_many(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: engine_key._user_key(tmp_path / "user"), range(64)))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "user").iterdir()] == ["engine-key"]
    assert (tmp_path / "user" / "engine-key").stat().st_mode & 0o777 == 0o600


@contextlib.contextmanager
def listening(path: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield f"ipc://{path}"


def test_a_rank_s_socket_is_taken_from_a_directory_that_only_its_user_enters(tmp_path: Path) -> None:
    own, others = tmp_path / "own", tmp_path / "others"
    own.mkdir(mode=0o700)
    others.mkdir(mode=0o777)
    with listening(own / "rank.sock") as address:
        check_listening(address)
        others.chmod(0o777)
        (others / "rank.sock").symlink_to(own / "rank.sock")
        (tmp_path / "link").symlink_to(own)
        for path in (others / "rank.sock", tmp_path / "link" / "rank.sock"):
            with pytest.raises(UnauthorizedError):
                check_listening(f"ipc://{path}")
        for mode in (0o755, 0o710, 0o701):
            own.chmod(mode)
            with pytest.raises(UnauthorizedError, match="others may enter"):
                check_listening(address)
    (own / "file").write_text("x")
    own.chmod(0o700)
    with pytest.raises(UnauthorizedError, match="is not a socket"):
        check_listening(f"ipc://{own}/file")


@as_root
def test_another_user_s_rank_is_refused_by_its_files_and_by_its_process(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o711)
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    with listening(own / "rank.sock") as address:
        os.chown(own / "rank.sock", NOBODY, NOBODY)
        with pytest.raises(UnauthorizedError, match=r"the socket of .* belongs to user 65534"):
            check_listening(address)
        os.chown(own / "rank.sock", 0, 0)
        os.chown(own, NOBODY, NOBODY)
        with pytest.raises(UnauthorizedError, match=r"the directory of .* belongs to user 65534"):
            check_listening(address)
    # A process of another user that listens at an abstract name, and one whose files look like ours.
    program = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
os.setgroups([]), os.setgid(65534), os.setuid(65534)
server.bind(chr(0) + sys.argv[1]); server.listen(); print("ready", flush=True); sys.stdin.read()
"""
    name = f"ckpt-test-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", program, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UnauthorizedError, match=r"the process that listens at .* runs as user 65534"):
            check_listening(f"ipc://@{name}")
        process.communicate()


@as_root
def test_an_attacker_of_another_user_gets_neither_the_key_nor_an_update() -> None:
    own = engine_key.engine_key()
    # All that nobody can find out: the key's file and the directory that it lies in.
    program = f"""
import os
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
try:
    print(open("/tmp/ckpt-user-0/engine-key").read())
except PermissionError:
    print("refused")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "refused"
    with pytest.raises(UnauthorizedError):
        parse_call({**CALL, "key": found})
    assert parse_call({**CALL, "key": own}).key == own
