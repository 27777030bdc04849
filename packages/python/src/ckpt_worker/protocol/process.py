"""What names this process on its machine, beyond a process id that others may have elsewhere, or later."""

from __future__ import annotations

import os
import re
from pathlib import Path


def process_mark() -> str | None:
    """This process's PID namespace and when it started, in clock ticks since boot; ``None`` where /proc does not say.

    A rank that finds the same of the process with this id knows that it sees the worker, and can tell when it dies.
    """
    try:
        namespace = re.search(r"\d+", os.readlink("/proc/self/ns/pid"))
        # Field 22 of proc_pid_stat(5); the name before may hold anything.
        start = Path("/proc/self/stat").read_text("latin-1").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return None if namespace is None else f"{namespace.group()}:{start}"
