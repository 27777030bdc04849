"""Engines that the trainer's own process calls or contains; the others are described by :mod:`ckpt.choices`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .choices import Engine, EngineStart

if TYPE_CHECKING:
    import torch

#: Receives the tensors of one bucket. Their memory is reused once it has returned: copy what you keep.
Load = Callable[[Iterable[tuple[str, "torch.Tensor"]]], None]
#: Receives (device, address) of every rank that takes part, and calls the engine; returns when its workers have ended.
Request = Callable[[list[tuple[str, str]]], None]


def local_engine(
    load: Load, *, commit: Callable[[str], None] | None = None, device: torch.device | str = "cpu", device_uuid: str = ""
) -> Engine:
    """Describes an engine worker in this process: updates hand the tensors to ``load``, in a thread, and no server is called.

    :param load: called with the tensors of each bucket. An exception that it raises fails the update.
    :param commit: called with the version, when every rank's worker has all tensors.
    :param device: device of the tensors.
    """

    def call(start: EngineStart) -> None:
        from ckpt_worker.update import run_update

        address = next(endpoint.address for endpoint in start.endpoints if endpoint.rank == start.rank)
        run_update(
            address, start.token, load, None, device, start.timeout, commit=commit, engine="local", device_uuid=device_uuid
        )

    return Engine("client", {"protocol": "ckpt"}, call)


def requested_engine(request: Request) -> Engine:
    """Describes an engine with checkpoint-engine's stock worker, which a function of this process calls.

    Every rank calls ``request``, as checkpoint-engine's ``update(name, req_func)`` does: it starts the workers of this rank's
    engine, or does nothing if a different rank's call does.

    :param request: called with (device, address) of every rank, in the order of ranks.
    """

    def call(start: EngineStart) -> None:
        request([(endpoint.device_uuid, endpoint.address) for endpoint in start.endpoints])

    return Engine("client", {"protocol": "checkpoint-engine"}, call)
