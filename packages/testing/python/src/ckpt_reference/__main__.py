"""``python -m ckpt_reference``: a reference engine as a separate process."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from types import FrameType

import torch

from .control import ControlServer
from .engine import ReferenceEngine

#: Time in seconds for a running call to notice that the engine ends.
_GRACE = 2.0


def main(arguments: list[str] | None = None, engine_type: type[ReferenceEngine] = ReferenceEngine) -> int:
    """Serves until ``POST /exit``, SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ckpt_reference", description=__doc__)
    parser.add_argument("--control", required=True, metavar="PATH", help="unix socket to listen on")
    parser.add_argument("--tp-rank", type=int, default=0, help="this worker's tensor-parallel rank")
    parser.add_argument("--tp-size", type=int, default=1, help="number of tensor-parallel ranks")
    parser.add_argument("--device", default="cpu", help="device of the parameters: cpu, or cuda:N")
    parser.add_argument("--device-uuid", default="", help="name of the device (default: a GPU's own name)")
    parser.add_argument("--unshared", action="store_true", help="do not let ranks write into the parameters")
    options = parser.parse_args(arguments)
    if not 0 <= options.tp_rank < options.tp_size:
        parser.error(f"--tp-rank {options.tp_rank} is not among --tp-size {options.tp_size}")
    unshared = "this engine shares no memory" if options.unshared else None
    engine = engine_type(options.tp_rank, options.tp_size, torch.device(options.device), options.device_uuid, unshared)
    server = ControlServer(options.control, engine)

    def stop(number: int, frame: FrameType | None) -> None:
        engine.stop()
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        engine.stop()
        idle = engine.idle(_GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    if not idle:
        os._exit(0)  # a call that does not end must not keep the process alive; only memory outlives it
    return 0


if __name__ == "__main__":
    sys.exit(main())
