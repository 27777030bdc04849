"""Identifies this process on its machine by more than a process id, which others may have elsewhere or later."""

from __future__ import annotations

import os
import re
from pathlib import Path


def process_mark() -> str | None:
    """Returns this process's PID namespace and its start time, in clock ticks since boot; ``None`` if /proc does not report
    them.

    A rank that finds the same mark for the process with this id knows that it sees the worker, and can detect its death.
    """
    try:
        namespace = re.search(r"\d+", os.readlink("/proc/self/ns/pid"))
        # Field 22 of proc_pid_stat(5); the name before it may contain anything.
        start = Path("/proc/self/stat").read_text("latin-1").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return None if namespace is None else f"{namespace.group()}:{start}"
