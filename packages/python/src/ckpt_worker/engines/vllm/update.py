"""One update of a vLLM worker's models, through any of vLLM's plug-in points."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from ...protocol.engine_call import UpdateCall
from ...recording import DirectState, Rehearsal, Tracer
from ...update import UpdateResult, run_prepare, run_update
from .feed import Named
from .loads import WeightLoad, open_load
from .placement import check_placement
from .rehearse import rehearse
from .target import Target

#: Environment variable that, if 0, prevents ranks from writing into an engine's parameters.
SHARE: Final = "CKPT_ENGINE_SHARE"


class _Known:
    """Recordings of some models, kept between updates."""

    def __init__(self, served: Served, targets: list[Target], unshared: str | None) -> None:
        self._served = served
        self.targets = targets
        self.models = [target.model for target in targets]
        self.unshared = unshared
        #: State of the running update.
        self.load: WeightLoad | None = None
        self.state = DirectState(self._tensors, self._touched, self._watched, unshared, self._rehearsed)

    def _tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for index, model in enumerate(self.models):
            prefix = "" if index == 0 else f"drafter {index}: "
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if not tensor.is_meta:
                    found[prefix + name] = tensor.data
        return found

    def _touched(self) -> None:
        if self.load is None:
            self._served.dirty = True
        else:
            self.load.begin_direct()

    def _watched(self, tracer: Tracer) -> None:
        assert self.load is not None
        self.load.watch(tracer, share=self.unshared is None)

    def _rehearsed(self, rehearsal: Rehearsal, named: Sequence[Named]) -> Mapping[str, torch.Tensor]:
        return rehearse(self.targets, rehearsal, named)


@dataclass
class Served:
    """Version that a worker serves."""

    version: str | None = None
    #: True if the parameters are not those of one complete committed version.
    dirty: bool = False
    _known: _Known | None = field(default=None, repr=False)

    def known(self, targets: list[Target]) -> _Known:
        """Returns the recordings of these models; starts again if they differ from those of the previous update."""
        models = [target.model for target in targets]
        unshared = f"{SHARE} is 0 in the engine's environment" if os.environ.get(SHARE) == "0" else None
        known = self._known
        if known is None or known.unshared != unshared or [*map(id, known.models)] != [*map(id, models)]:
            self._known = known = _Known(self, targets, unshared)
        known.targets = targets
        return known


def take_update(
    call: UpdateCall,
    address: str,
    uuid: str,
    targets: list[Target],
    device: torch.device,
    served: Served,
    runner: Any = None,
) -> UpdateResult:
    """Runs the worker protocol with one rank and loads its tensors into the targets; ``served`` is kept up to date.

    ``runner`` is vLLM's model runner, if known. vLLM's configuration must be the current one, because layers look it up while
    they are loaded.
    """

    def commit(version: str) -> None:
        served.version, served.dirty = version, False

    def open_now() -> None:
        known.load = open_load(targets, device)

    def opened() -> WeightLoad:
        assert known.load is not None
        return known.load

    check_placement(targets, runner)
    with torch.no_grad():
        known = served.known(targets)
        try:
            return run_update(
                address,
                call.token,
                lambda tensors: opened().load(tensors),
                lambda: opened().finish(),
                device,
                call.timeout_ms / 1000,
                commit=commit,
                engine=f"vllm {_version()}",
                device_uuid=uuid,
                direct=known.state,
                greeted=open_now,
            )
        except BaseException:
            load = known.load
            if load is not None:
                try:
                    load.abandon()
                finally:
                    served.dirty |= load.changed
            raise
        finally:
            known.load = None


def prepare_update(call: UpdateCall, address: str, uuid: str, targets: list[Target], served: Served) -> str | None:
    """Answers one rank's questions before an update; returns the id of the recording, if there is one. The parameters stay as
    they are. vLLM's configuration must be the current one.
    """
    known = served.known(targets)
    engine = f"vllm {_version()}"
    return run_prepare(address, call.token, call.timeout_ms / 1000, known.state, engine=engine, device_uuid=uuid)


def worker_index(vllm_config: Any, rank: int) -> int:
    """Returns a worker's index among all workers of the instance, including data-parallel replicas."""
    parallel = vllm_config.parallel_config
    replica: Any = getattr(parallel, "data_parallel_index", None)
    if replica is None:
        replica = getattr(parallel, "data_parallel_rank", 0)
    return int(replica) * int(parallel.world_size) + rank


def _version() -> str:
    return str(getattr(importlib.import_module("vllm"), "__version__", "of unknown version"))
