"""The worker extension: methods that vLLM adds to each of its workers and calls through ``/collective_rpc``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..cuda_driver import device_uuid
from ..engine_call import UpdateCall, check_listening, endpoint_for, parse_call
from ..session import UpdateResult, run_update
from .loads import Target, open_load


@dataclass
class _Served:
    """What a worker serves."""

    version: str | None = None
    #: Whether the parameters hold anything but a whole committed version.
    dirty: bool = False


class WorkerExtension:
    """Mixed into vLLM's worker class. Start vLLM with ``--worker-extension-cls ckpt_worker.vllm.WorkerExtension``."""

    if TYPE_CHECKING:
        # Of the worker that this is mixed into.
        vllm_config: Any
        model_config: Any
        model_runner: Any
        device: torch.device | None
        rank: int
        _ckpt_served: _Served

    def ckpt_update(self, call: dict[str, Any]) -> dict[str, Any]:
        """Takes one update, to its commit. ``call`` is an :class:`UpdateCall`; the answer says what came.

        :raises Exception: what :func:`ckpt_worker.run_update` raises; the parameters may then be partly new (``ckpt_status``).
        """
        parsed = parse_call(call)
        assert self.device is not None
        uuid = device_uuid(self.device)
        endpoint = endpoint_for(parsed, self._ckpt_index(), uuid)
        check_listening(endpoint.address)
        result = take_update(self, parsed, endpoint.address, uuid)
        return {
            "rank": endpoint.rank,
            "version": result.version,
            "tensors": result.tensors,
            "bytes": result.bytes,
            "buckets": result.buckets,
            "reloadMs": result.reload_ms,
        }

    def ckpt_status(self) -> dict[str, Any]:
        """What the worker serves: ``version`` of the last commit, and ``dirty`` where an update has failed half way since."""
        served = served_by(self)
        return {"version": served.version, "dirty": served.dirty}

    def _ckpt_index(self) -> int:
        """This worker's place among all workers of the instance, data-parallel replicas included."""
        parallel = self.vllm_config.parallel_config
        replica = getattr(parallel, "data_parallel_index", None)
        if replica is None:
            replica = getattr(parallel, "data_parallel_rank", 0)
        return int(replica) * int(parallel.world_size) + int(self.rank)


def served_by(worker: Any) -> _Served:
    """What a worker serves, kept with it."""
    served: _Served | None = getattr(worker, "_ckpt_served", None)
    if served is None:
        served = worker._ckpt_served = _Served()
    return served


def take_update(worker: Any, call: UpdateCall, address: str, uuid: str) -> UpdateResult:
    """Runs the worker protocol against one rank and loads what comes into the worker's models."""
    served = served_by(worker)
    runner = worker.model_runner
    targets = [Target(_model(runner), worker.model_config, call.complete), *_drafter(worker, call.drafter)]

    def commit(version: str) -> None:
        served.version, served.dirty = version, False

    with _configured(worker), torch.no_grad():
        load = open_load(targets, worker.device)
        try:
            result = run_update(
                address,
                call.token,
                load.load,
                load.finish,
                worker.device,
                call.timeout_ms / 1000,
                commit=commit,
                engine=f"vllm {_version()}",
                device_uuid=uuid,
            )
        except BaseException:
            load.abandon()
            served.dirty |= load.changed
            raise
    # What the runner has computed with the old weights.
    for name in ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache"):
        reset = getattr(runner, name, None)
        if callable(reset):
            reset()
    return result


@contextmanager
def _configured(worker: Any) -> Iterator[None]:
    """vLLM's layers look up the current configuration while they are loaded."""
    with importlib.import_module("vllm.config").set_current_vllm_config(worker.vllm_config):
        yield


def _model(runner: Any) -> torch.nn.Module:
    get = getattr(runner, "get_model", None)
    model: torch.nn.Module = get() if callable(get) else runner.model
    return model


def _drafter(worker: Any, wanted: str) -> list[Target]:
    """The speculative drafter, where it takes the checkpoint's weights."""
    runner = worker.model_runner
    get = getattr(runner, "get_draft_model", None)
    model = get() if callable(get) else getattr(getattr(runner, "drafter", None), "model", None)
    speculative = getattr(worker.vllm_config, "speculative_config", None)
    if wanted == "skip" or not isinstance(model, torch.nn.Module) or speculative is None:
        return []
    config = getattr(speculative, "draft_model_config", None) or worker.model_config
    # Multi-token-prediction layers come from the model's own checkpoint; other drafters have one of their own.
    if wanted == "auto" and config.model != worker.model_config.model:
        return []
    return [Target(model, config, complete=False)]


def _version() -> str:
    return str(getattr(importlib.import_module("vllm"), "__version__", "of unknown version"))
