"""The process of a rank program: its start, its log, its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections import deque
from typing import IO, Final

from .errors import CkptError, error
from .left_behind import remove_left_behind
from .program import rank_program

#: Receives what ranks log. Without a configuration of logging by the program nothing is shown.
log = logging.getLogger("ckpt.rank")
log.addHandler(logging.NullHandler())

#: Time in seconds for a rank program that was told to end, before it is killed.
_END_WITHIN: Final = 15.0
#: Levels of pino by those of Python.
_LEVELS: Final = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error"}
#: Lines of the program's output that an error quotes.
_QUOTED: Final = 12


class RankProcess:
    """A started rank program. ``socket`` is this process's end of the connection; closing it ends the program."""

    def __init__(self) -> None:
        command = rank_program()
        self._environment = dict(os.environ)
        #: Names of this process's shared memory begin with it: the program removes them if this process is killed.
        self.label = f"ckpt-trainer-{os.getpid()}-{secrets.token_hex(6)}-"
        self.socket, theirs = socket.socketpair()
        arguments = ["--parent", str(os.getpid()), "--label", self.label, "--log-level", _level()]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, "--fd", str(theirs.fileno()), *arguments],
                    bufsize=0,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    # Signals of the terminal are for this process, which ends the program in its own way.
                    start_new_session=True,
                )
        except OSError as reason:
            self.socket.close()
            raise error("RANK_LOST", f"cannot start the rank program {command[0]}: {reason}", file=command[0]) from reason
        self._tail: deque[str] = deque(maxlen=_QUOTED)
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        self._reader = threading.Thread(target=self._read, name="ckpt-rank-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def lost(self) -> CkptError:
        """Returns the error for calls that the program can no longer answer. Waits briefly for the program's end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._reader.join(1)
        code = self._process.poll()
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        self._remove_left_behind()
        said = "".join(f"\n  {line}" for line in self._tail)
        return error("RANK_LOST", f"the rank program (process {self.pid}) {how}{said}", pid=self.pid, exitCode=code)

    def end(self, within: float = _END_WITHIN) -> None:
        """Ends the program, by force if it does not end by itself, and removes what it left. Calling it again does nothing."""
        # Not only closed: a forked child may have this socket open, too.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)
        self._output.close()
        self._remove_left_behind()

    def forget(self) -> None:
        """Closes this process's copies of the files, in a child that was forked since: the program belongs to the parent."""
        self.socket.close()
        self._output.close()

    def _remove_left_behind(self) -> None:
        if self._process.poll() not in (None, 0):
            remove_left_behind(self.pid, self._environment)

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                chunk = self._output.read(1 << 16)
            except (OSError, ValueError):
                return
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._log(line.decode(errors="replace"))
        if pending:
            self._log(pending.decode(errors="replace"))

    def _log(self, line: str) -> None:
        """Logs a line of the program: pino's JSON, or text of Node itself."""
        try:
            entry = json.loads(line)
            level, message = int(entry.pop("level")) - 10, str(entry.pop("msg", ""))
            entry.pop("time", None)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._tail.append(line)
            log.warning("%s", line)
            return
        log.log(level, "%s %s", message, json.dumps(entry))


def _level() -> str:
    wanted = log.getEffectiveLevel()
    return next((name for level, name in sorted(_LEVELS.items()) if level >= wanted), "fatal")
