"""``python -m ckpt.compat.checkpoint_engine --uds PATH``: a rank with checkpoint-engine's HTTP interface."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from .api import HttpServer
from .ps import ParameterServer


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ckpt.compat.checkpoint_engine", description=__doc__)
    parser.add_argument("--uds", required=True, metavar="PATH", help="unix socket to listen on")
    options = parser.parse_args(arguments)
    with ParameterServer(auto_pg=True) as ps, HttpServer(options.uds, ps) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
