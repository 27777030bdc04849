"""SGLang's side: a plug-in (entry point ``sglang.srt.plugins``) that adds this project's worker protocol to
``/update_weights_from_ipc``.

A request whose ``zmq_handles`` has the single key ``ckpt`` is ours: its value is an :class:`UpdateCall` as JSON. SGLang handles
any other. Everything around an update (exclusion of requests, cache flush, version, the barrier of all workers) stays SGLang's.

A failure of a loader, or of the post-processing, fails the request: nothing is turned into a warning.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import torch

from ...errors import ProtocolError, UnsupportedError
from ...loading.cuda_driver import device_uuid
from ...loading.streaming import Named, StreamingLoad
from ...protocol.engine_call import check_listening, endpoint_for, parse_call
from ...update import run_update

logger = logging.getLogger(__name__)

#: Key in ``zmq_handles`` that marks a request as ours.
KEY: Final = "ckpt"
#: Key that requests the worker's state; the answer's message is JSON.
STATUS_KEY: Final = "ckpt-status"

# In SGLang 0.5.23 the scheduler's part goes through all models (target, drafts), and the runner's takes one of them.
_SCHEDULER: Final = "sglang.srt.managers.scheduler_components.weight_updater"
_RUNNER: Final = "sglang.srt.model_executor.model_runner_components.weight_updater"

Outcome = tuple[bool, str]


@dataclass
class _Served:
    version: str | None = None
    dirty: bool = False


@dataclass
class _Update:
    """One request: the participating models, and the outcome once the first was reached."""

    updaters: list[Any] = field(default_factory=list)
    outcome: Outcome | None = None


_current: ContextVar[_Update | None] = ContextVar("ckpt_update", default=None)
_served = _Served()


def register() -> None:
    """Called by SGLang in each of its processes."""
    try:
        hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
        for module, name in ((_SCHEDULER, "SchedulerWeightUpdaterManager"), (_RUNNER, "WeightUpdater")):
            if not hasattr(getattr(importlib.import_module(module), name), "update_weights_from_ipc"):
                raise AttributeError(f"{module}.{name} has no update_weights_from_ipc")
    except (ImportError, AttributeError) as error:
        logger.warning("ckpt cannot update this version of SGLang by its own protocol: %s", error)
        return
    around = hooks.HookType.AROUND
    hooks.HookRegistry.register(f"{_SCHEDULER}.SchedulerWeightUpdaterManager.update_weights_from_ipc", around_scheduler, around)
    hooks.HookRegistry.register(f"{_RUNNER}.WeightUpdater.update_weights_from_ipc", around_runner, around)


def around_scheduler(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Records the models of a request."""
    if not _ours(request):
        return original(manager, request)
    updaters = [runner.weight_updater for _, runner in manager._select_runners()]
    token = _current.set(_Update(updaters))
    try:
        return original(manager, request)
    finally:
        _current.reset(token)


def around_runner(original: Callable[..., Outcome], updater: Any, request: Any) -> Outcome:
    """The first model's turn updates all of them, over one connection; the others' turns return the same outcome."""
    if not _ours(request):
        return original(updater, request)
    if STATUS_KEY in request.zmq_handles:
        return True, msgspec.json.encode({"version": _served.version, "dirty": _served.dirty}).decode()
    update = _current.get() or _Update([updater])
    if update.outcome is None:
        update.outcome = _outcome(update.updaters, request.zmq_handles[KEY])
    return update.outcome


def _ours(request: Any) -> bool:
    return bool({KEY, STATUS_KEY} & set(request.zmq_handles))


def _outcome(updaters: list[Any], call: str) -> Outcome:
    try:
        return True, f"ckpt: serving {take_update(updaters, call)}"
    except Exception as error:
        logger.exception("ckpt: the update failed")
        return False, f"{type(error).__name__}: {error}"


def take_update(updaters: list[Any], call: str) -> str:
    """Takes one update into all models, to its commit; returns its version.

    :raises Exception: the errors of :func:`ckpt_worker.run_update`.
    """
    try:
        parsed = parse_call(msgspec.json.decode(call))
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the call is not JSON: {error}") from error
    first = updaters[0]
    device = _device(first)
    uuid = device_uuid(device)
    endpoint = endpoint_for(parsed, _index(first), uuid)
    check_listening(endpoint.address)
    for updater in updaters:
        _refuse_what_cannot_be_reloaded(updater)
    loads = _Loads(updaters, device)

    def commit(version: str) -> None:
        _served.version, _served.dirty = version, False

    try:
        result = run_update(
            endpoint.address,
            parsed.token,
            loads.load,
            loads.finish,
            device,
            parsed.timeout_ms / 1000,
            commit=commit,
            engine="sglang",
            device_uuid=uuid,
        )
    except BaseException:
        _served.dirty |= loads.changed
        loads.abandon()
        raise
    return result.version


class _Loads:
    """All models of a worker, each with one running call of its loader."""

    def __init__(self, updaters: list[Any], device: torch.device) -> None:
        self._updaters = updaters
        self._loads = [StreamingLoad(updater.get_model().load_weights, device) for updater in updaters]
        self.changed = False

    def load(self, tensors: Iterable[Named]) -> None:
        if not self.changed:
            self.changed = True
            for updater in self._updaters:
                updater.begin_weight_update()  # undoes in-place packing
        if len(self._loads) == 1:
            self._loads[0].load(tensors)
            return
        bucket = list(tensors)
        for load in self._loads:
            load.load(iter(bucket))

    def finish(self) -> None:
        for load in self._loads:
            load.finish()
        for updater in self._updaters:
            updater.end_weight_update(run_post_load=True)

    def abandon(self) -> None:
        for load in self._loads:
            load.abandon()
        if not self.changed:
            return
        for updater in self._updaters:
            # Packed again, so that it can continue, with its current contents.
            with contextlib.suppress(Exception):
                updater.end_weight_update(run_post_load=True)


def _refuse_what_cannot_be_reloaded(updater: Any) -> None:
    """Raises SGLang's own reasons against an update in place.

    :raises UnsupportedError: with SGLang's message.
    """
    inactive = getattr(updater, "_assert_weight_cache_inactive", None)
    if callable(inactive):
        inactive("update_weights_from_ipc")
    reason = getattr(importlib.import_module(_RUNNER), "_unsupported_derived_weight_cache_error", None)
    error = reason(updater.get_model()) if callable(reason) else None
    if error is not None:
        raise UnsupportedError(str(error))


def _device(updater: Any) -> torch.device:
    device = torch.device(updater.device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _index(updater: Any) -> int:
    """Returns the worker's position: pipeline stages one after the other, tensor-parallel ranks inside each."""
    get = getattr(updater, "get_model_runner", None)
    runner = get() if callable(get) else updater
    tensor, size = int(getattr(runner, "tp_rank", 0)), int(getattr(runner, "tp_size", 1))
    return int(getattr(runner, "pp_rank", 0)) * size + tensor
