"""The worker extension: methods that vLLM adds to each of its workers and calls through ``/collective_rpc``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ...loading.cuda_driver import device_uuid
from ...protocol.engine_call import Endpoint, UpdateCall, check_listening, endpoint_for, parse_call
from .target import Target
from .update import Served, prepare_update, take_update, worker_index


class WorkerExtension:
    """Mixed into vLLM's worker class. Start vLLM with ``--worker-extension-cls ckpt_worker.vllm.WorkerExtension``."""

    if TYPE_CHECKING:
        # Attributes of the worker that this is mixed into.
        vllm_config: Any
        model_config: Any
        model_runner: Any
        device: torch.device | None
        rank: int

    def ckpt_update(self, call: dict[str, Any]) -> dict[str, Any]:
        """Takes one update, to its commit. ``call`` is an :class:`UpdateCall`; the answer describes the update.

        :raises Exception: the errors of :func:`ckpt_worker.run_update`; the parameters may then be partly new
        (``ckpt_status``).
        """
        parsed, endpoint, uuid = _called(self, call)
        assert self.device is not None
        targets = _targets(self, parsed)
        with _configured(self.vllm_config):
            result = take_update(parsed, endpoint.address, uuid, targets, self.device, _served(self), self.model_runner)
        drop_computed(self.model_runner)
        return {
            "rank": endpoint.rank,
            "version": result.version,
            "models": len(targets),
            "tensors": result.tensors,
            "bytes": result.bytes,
            "buckets": result.buckets,
            "reloadMs": result.reload_ms,
        }

    def ckpt_prepare(self, call: dict[str, Any]) -> dict[str, Any]:
        """Answers one rank's questions before an update. ``call`` is an :class:`UpdateCall`; the parameters stay as they are.

        :raises Exception: the errors of :func:`ckpt_worker.update.run_prepare`.
        """
        parsed, endpoint, uuid = _called(self, call)
        with _configured(self.vllm_config):
            recording = prepare_update(parsed, endpoint.address, uuid, _targets(self, parsed), _served(self))
        return {"rank": endpoint.rank, "recording": recording}

    def ckpt_status(self) -> dict[str, Any]:
        """State of the worker: ``version`` of the last commit, and ``dirty`` if an update has failed partway since.

        ``connector`` names the class that keeps keys and values outside the engine, if it has one: after an update they are of
        the old weights.
        """
        served = _served(self)
        transfer = getattr(self.vllm_config, "kv_transfer_config", None)
        connector = getattr(transfer, "kv_connector", None)
        return {"version": served.version, "dirty": served.dirty, "connector": connector}


def drop_computed(runner: Any) -> None:
    """Drops what vLLM's model runner has computed with the old weights, as far as its version keeps any."""
    for name in ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache"):
        reset = getattr(runner, name, None)
        if callable(reset):
            reset()


def _called(worker: Any, data: dict[str, Any]) -> tuple[UpdateCall, Endpoint, str]:
    """Returns the call, the rank that waits for this worker, and the UUID of its GPU."""
    call = parse_call(data)
    assert worker.device is not None
    uuid = device_uuid(worker.device)
    endpoint = endpoint_for(call, worker_index(worker.vllm_config, worker.rank), uuid)
    check_listening(endpoint.address)
    return call, endpoint, uuid


def _targets(worker: Any, call: UpdateCall) -> list[Target]:
    model = Target(_model(worker.model_runner), worker.model_config, call.complete)
    return [model, *_drafter(worker, call.drafter)]


def _served(worker: Any) -> Served:
    """Kept with the worker, or with its backend of vLLM's weight transfer if that has taken updates."""
    backend: Served | None = getattr(getattr(worker, "weight_transfer_engine", None), "served", None)
    if isinstance(backend, Served):
        return backend
    served: Served | None = getattr(worker, "_ckpt_served", None)
    if served is None:
        served = worker._ckpt_served = Served()
    return served


@contextmanager
def _configured(vllm_config: Any) -> Iterator[None]:
    with importlib.import_module("vllm.config").set_current_vllm_config(vllm_config):
        yield


def _model(runner: Any) -> torch.nn.Module:
    get = getattr(runner, "get_model", None)
    model: torch.nn.Module = get() if callable(get) else runner.model
    return model


def _drafter(worker: Any, wanted: str) -> list[Target]:
    """Returns the speculative drafter, if it takes the checkpoint's weights."""
    runner = worker.model_runner
    get = getattr(runner, "get_draft_model", None)
    model = get() if callable(get) else getattr(getattr(runner, "drafter", None), "model", None)
    speculative = getattr(worker.vllm_config, "speculative_config", None)
    if wanted == "skip" or not isinstance(model, torch.nn.Module) or speculative is None:
        return []
    config = getattr(speculative, "draft_model_config", None) or worker.model_config
    # Multi-token-prediction layers come from the model's own checkpoint; other drafters have a separate one.
    if wanted == "auto" and config.model != worker.model_config.model:
        return []
    return [Target(model, config, complete=False)]
