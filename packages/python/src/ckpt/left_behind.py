"""Removes what a killed rank program left: its directory of sockets and its rings in shared memory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_SHARED_MEMORY: Final = Path("/dev/shm")


def remove_left_behind(pid: int, environment: Mapping[str, str]) -> None:
    """Removes the directory and the rings of process ``pid``, which had this environment and has ended. Never raises.

    Directories and rings of other processes with the same process id, elsewhere, stay: a directory whose socket has a listener
    is in use, and names of rings contain the PID namespace.
    """
    named = [environment.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP")]
    for root in dict.fromkeys([*filter(None, named), "/tmp", "/dev/shm", "/var/tmp"]):
        for path in _matching(Path(root), re.compile(rf"ckpt-{pid}-\w{{6}}")):
            with contextlib.suppress(OSError):
                if _is_own_directory(path) and not any(_listens(one) for one in path.glob("alive-*.sock")):
                    shutil.rmtree(path, ignore_errors=True)
    namespace = _pid_namespace()
    if namespace is not None:
        for path in _matching(_SHARED_MEMORY, re.compile(rf"ckpt-(?:near-)?{pid}-{namespace}-[0-9a-f]{{16}}")):
            with contextlib.suppress(OSError):
                if path.lstat().st_uid == os.geteuid():
                    path.unlink()


def _matching(root: Path, name: re.Pattern[str]) -> Iterable[Path]:
    try:
        return [root / entry for entry in os.listdir(root) if name.fullmatch(entry)]
    except OSError:
        return []


def _is_own_directory(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True


def _pid_namespace() -> str | None:
    try:
        found = re.search(r"\d+", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return None
    return None if found is None else found.group()
