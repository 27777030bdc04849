"""An engine worker that takes updates through checkpoint-engine's stock worker function and keeps every tensor it yields.

It listens on a control socket as the reference engines do (docs/worker-protocol.md); ``POST /verify`` compares what it was given with
what the safetensors package reads from the files: names, dtypes, shapes, and every byte. Options beside those of the reference engine:
``--stand-in-cuda`` for machines without a GPU, ``--fail-at-load N`` to raise in the N-th load, once, and ``--exit-at-load N``.
"""

from __future__ import annotations

import os
import sys

import torch
import zmq
from safetensors import safe_open

from ckpt_reference.__main__ import main
from ckpt_reference.engine import ReferenceEngine, Verification
from ckpt_worker import UpdateResult
from ckpt_worker.loading.digest import digest, flat_bytes


class CheckEngine(ReferenceEngine):
    """Keeps a copy of every tensor of the last update."""

    fail_at: int | None = None
    exit_at: int | None = None
    _context: zmq.Context[zmq.Socket[bytes]] | None = None
    _held: dict[str, torch.Tensor] = {}
    _loads = 0

    def update(self, address: str, token: str, timeout: float) -> UpdateResult:
        """Runs the stock worker function; ``address`` is the ZeroMQ handle."""
        from checkpoint_engine.worker import update_weights_from_ipc

        with self._turns():
            if self._context is None:
                self._context = zmq.Context()
            self._held, self._loads, self._dirty, self._posted = {}, 0, True, False
            if self._device.type == "cuda":
                # The stock function waits for the current device alone, as it is set in an engine's worker.
                torch.cuda.set_device(self._device)
            update_weights_from_ipc(
                self._context, address, self._device.index or 0, run=self._keep, post_hook=self._post_hook
            )
            if not self._posted:
                raise RuntimeError("the update ended without the post hook")
            self._commit("checkpoint-engine")
            return UpdateResult("checkpoint-engine", 0, 0, 0, 0.0)

    def digests(self) -> dict[str, int]:
        """Digest of every tensor."""
        with self._turns():
            return {name: digest(flat_bytes(tensor)) for name, tensor in self._held.items()}

    def verify(self, paths: list[str]) -> Verification:
        """Compares every tensor with the files'."""
        with self._turns():
            expected: dict[str, torch.Tensor] = {}
            for path in paths:
                with safe_open(path, framework="pt") as file:
                    expected.update({name: file.get_tensor(name) for name in file.keys()})
            wrong = sorted(self._held.keys() ^ expected.keys())
            for name, tensor in expected.items():
                if name in self._held and not _same(self._held[name], tensor):
                    wrong.append(name)
            size = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
            return Verification(not wrong and bool(expected), len(expected), size, wrong)

    def poison(self) -> None:
        """Forgets everything."""
        with self._turns():
            self._held = {}

    def _keep(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self._loads += 1
        if self.exit_at == self._loads:
            os._exit(9)
        if self.fail_at == self._loads:
            CheckEngine.fail_at = None
            raise ValueError(f"injected failure in load {self._loads}")
        for name, tensor in weights:
            if tensor.device != self._device:
                raise AssertionError(f"{name} lies on {tensor.device}, not on {self._device}")
            if name in self._held:
                raise AssertionError(f"{name} came twice")
            self._held[name] = tensor.clone()

    def _post_hook(self) -> None:
        self._posted = True


def _same(held: torch.Tensor, expected: torch.Tensor) -> bool:
    if held.dtype != expected.dtype or held.shape != expected.shape:
        return False
    return torch.equal(flat_bytes(held.cpu()), flat_bytes(expected))


def _option(arguments: list[str], name: str) -> int | None:
    if name not in arguments:
        return None
    at = arguments.index(name)
    value = int(arguments[at + 1])
    del arguments[at : at + 2]
    return value


if __name__ == "__main__":
    given = sys.argv[1:]
    if "--stand-in-cuda" in given:
        given.remove("--stand-in-cuda")
        import stand_in_cuda

        stand_in_cuda.install()
    CheckEngine.fail_at = _option(given, "--fail-at-load")
    CheckEngine.exit_at = _option(given, "--exit-at-load")
    sys.exit(main(given, engine_type=CheckEngine))
