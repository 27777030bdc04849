"""The reference engine behind checkpoint-engine's own worker function: same parameters, same loads, the peer's protocol."""

from __future__ import annotations

import sys

import torch
import zmq
from checkpoint_engine.worker import update_weights_from_ipc

from ckpt_reference.__main__ import main
from ckpt_reference.engine import ReferenceEngine
from ckpt_worker import UpdateResult


class PeerEngine(ReferenceEngine):
    """``POST /update`` takes an update from checkpoint-engine; ``address`` is its ZeroMQ handle."""

    _context: zmq.Context[zmq.Socket[bytes]] | None = None

    def update(self, address: str, token: str, timeout: float) -> UpdateResult:
        """Runs the stock worker function over this engine's load."""
        with self._turns(), torch.cuda.device(self._device):
            if self._context is None:
                self._context = zmq.Context()
            index = self._device.index or 0
            update_weights_from_ipc(self._context, address, index, run=self._load, post_hook=self._parameters.finish)
            self._commit("checkpoint-engine")
            return UpdateResult("checkpoint-engine", 0, 0, 0, 0.0)


if __name__ == "__main__":
    sys.exit(main(engine_type=PeerEngine))
