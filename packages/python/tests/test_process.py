"""The name of a process."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from ckpt_worker.protocol.process import process_mark

PROGRAM = "from ckpt_worker.protocol.process import process_mark; print(process_mark())"


def test_a_process_is_named_by_its_namespace_and_when_it_started() -> None:
    own = process_mark()
    assert own is not None
    assert own == process_mark()
    time.sleep(0.02)  # two of the clock's ticks
    other = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout.strip()
    assert re.fullmatch(r"\d+:\d+", other)
    assert own.split(":")[0] == other.split(":")[0]
    assert int(own.split(":")[1]) < int(other.split(":")[1])
