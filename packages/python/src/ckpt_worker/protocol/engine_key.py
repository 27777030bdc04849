"""The key that calls to an engine's workers carry.

Engines' control endpoints do not authenticate callers: anyone who reaches them could have other weights loaded.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import warnings
from pathlib import Path
from typing import Final

from ..errors import UnauthorizedError

#: The key itself; :data:`OFF` disables it.
KEY_VARIABLE: Final = "CKPT_ENGINE_KEY"
#: A file that contains the key, for both sides; only its owner may read it.
FILE_VARIABLE: Final = "CKPT_ENGINE_KEY_FILE"
OFF: Final = "off"
#: Minimum length of a key in characters: shorter ones can be guessed.
MIN_LENGTH: Final = 16
_MAX_FILE_BYTES: Final = 4096


def engine_key() -> str | None:
    """Returns the key that calls must carry; None if it is disabled explicitly.

    :data:`KEY_VARIABLE` of the environment, otherwise the content of the file that :data:`FILE_VARIABLE` names, otherwise a
    secret of this machine's user, which parameter servers find in the same way.

    :raises UnauthorizedError: for a key that can be guessed, or a file that others could have written or read.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if key == OFF:
        return None
    if key:
        if len(key) < MIN_LENGTH:
            raise UnauthorizedError(f"{KEY_VARIABLE}: {len(key)} characters can be guessed; use at least {MIN_LENGTH}")
        return key
    file = os.environ.get(FILE_VARIABLE, "")
    return _read(Path(file)) if file else _user_key(Path(f"/tmp/ckpt-user-{os.geteuid()}"))


def where() -> str:
    """Source of this process's key, for messages."""
    if os.environ.get(KEY_VARIABLE):
        return KEY_VARIABLE
    file = os.environ.get(FILE_VARIABLE)
    return f"{FILE_VARIABLE} ({file})" if file else f"/tmp/ckpt-user-{os.geteuid()}/engine-key ({FILE_VARIABLE} is not set)"


def _read(path: Path) -> str:
    def refuse(why: str) -> UnauthorizedError:
        return UnauthorizedError(f"{FILE_VARIABLE}: {path} {why}")

    try:
        # Does not wait for the other end of a pipe; the opened file is checked.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(file)
        user = os.geteuid()
        if not stat.S_ISREG(status.st_mode):
            raise refuse("is not a file")
        if status.st_uid not in (user, 0):
            raise refuse(f"belongs to user {status.st_uid}, not to this user ({user}) or root")
        if _read_by_own_group(status):
            text = f"can be read by group {status.st_gid}, as secrets of Kubernetes with an fsGroup can"
            warnings.warn(f"{FILE_VARIABLE}: {path} {text}", RuntimeWarning, stacklevel=2)
        elif status.st_mode & 0o077:
            raise refuse("can be read by others; make it mode 0600")
        if status.st_size > _MAX_FILE_BYTES:
            raise refuse(f"holds {status.st_size} bytes, more than the {_MAX_FILE_BYTES} of a secret")
        text = os.read(file, _MAX_FILE_BYTES).decode(errors="replace").strip()
    finally:
        os.close(file)
    if len(text) < MIN_LENGTH:
        raise refuse(f"holds {len(text)} characters, which can be guessed; use at least {MIN_LENGTH}")
    return text


def _read_by_own_group(status: os.stat_result) -> bool:
    """True for a file of root that only a group of this process may read besides: Kubernetes makes files of secrets so for pods
    with an fsGroup, and the pod cannot change them.
    """
    groups = {os.getegid(), *os.getgroups()}
    return status.st_uid == 0 and status.st_gid in groups - {0} and status.st_mode & 0o077 == 0o040


def _user_key(directory: Path) -> str:
    """Returns the key of this machine's user, in a directory that only the user may enter. The first process that needs it
    creates it.
    """
    path = directory / "engine-key"
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            text = f"{FILE_VARIABLE}: not set, and {directory} is not a directory of mode 0700 of this user ({os.geteuid()})"
            raise UnauthorizedError(f"{text}: set {FILE_VARIABLE}")
        if not os.path.lexists(path):
            _make(directory, path)
    except OSError as error:
        text = f"{FILE_VARIABLE}: not set, and {directory} cannot hold a secret: {error.strerror}"
        raise UnauthorizedError(f"{text}: set {FILE_VARIABLE}") from error
    return _read(path)


def _make(directory: Path, path: Path) -> None:
    # The file is complete before it gets its name, because others may read it at once.
    draft = directory / secrets.token_hex(8)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
