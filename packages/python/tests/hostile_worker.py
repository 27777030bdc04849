"""A worker whose rank lies: reads one address per line from stdin, and prints the result of each update, one JSON object per
line.

A line ``mark NAME`` leaves NAME in a trace of this process, and prints what the process holds.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ckpt_worker import run_update
from ckpt_worker.errors import LayoutError, WorkerError
from ckpt_worker.recording import DirectState, Rehearsal
from rank import TOKEN

#: As in the tests' checkpoint.
PARAMETERS = {f"layer.{index}.weight": torch.zeros(16, 16, dtype=torch.uint8) for index in range(4)}
TIMEOUT = 1.0


def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in tensors:
        parameter = PARAMETERS.get(name)
        if parameter is None or parameter.shape != tensor.shape or parameter.dtype != tensor.dtype:
            raise LayoutError(f"tensor {name!r} fits no parameter", tensor=name)
        parameter.copy_(tensor)


def rehearse(rehearsal: Rehearsal, named: Sequence[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    load(named)
    return PARAMETERS


def holds() -> dict[str, int]:
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "shared": sum("/dev/shm" in line or "memfd" in line for line in maps),
        "kilobytes": next(int(line.split()[1]) for line in status if line.startswith("VmRSS")),
        "threads": threading.active_count(),
    }


def attempt(address: str, direct: DirectState) -> dict[str, Any]:
    try:
        result = run_update(address, TOKEN, load, None, "cpu", TIMEOUT, engine="hostile", direct=direct)
    except WorkerError as error:
        return {"code": error.code, "text": str(error)}
    except BaseException as error:
        return {"code": "raw", "text": f"{type(error).__name__}: {error}"}
    return {"code": "ok", "text": result.version}


def main() -> None:
    direct = DirectState(lambda: PARAMETERS, rehearse=rehearse)
    for line in sys.stdin:
        word, _, name = line.rstrip("\n").partition(" ")
        if word == "mark":
            os.access(f"/ckpt-trace-{name}", os.R_OK)
            answer: dict[str, Any] = holds()
        else:
            answer = attempt(word, direct)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
