"""Weights from one trainer process to receiver processes: what verl's and NeMo-RL's backends have in common.

The sender and every receiver are ranks. Receivers hand the tensors of an update to the caller, who loads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..choices import Engine, broadcast
from ..engines import local_engine
from ..errors import CkptError, error
from ..parameter_server import ParameterServer

if TYPE_CHECKING:
    import torch

    Batch = list[tuple[str, torch.Tensor]]

#: Name of the transferred checkpoint; it is registered for one transfer.
_NAME = "weights"


def describe(session: str | None) -> dict[str, Any]:
    """Returns what a process tells the others before they meet: where ranks could meet on its host, and its session."""
    host = _own_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    where = f"[{host}]" if ":" in host else host
    return {"rendezvous": f"tcp://{where}:{port}", "token": secrets.token_hex(32), "session": session}


def meeting(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns where the processes meet, from what the sender told, and the session: the previous one if all are still in it."""
    sessions = {one.get("session") for one in metadata}
    first = metadata[0]
    known = sessions.pop() if len(sessions) == 1 else None
    # The number of members is in it: of a session that some have left, those that remain make a new one.
    session = known if known is not None and known.endswith(f"-{len(metadata)}") else None
    return {
        "rendezvous": first["rendezvous"],
        "token": first["token"],
        "session": session or f"{secrets.token_hex(8)}-{len(metadata)}",
    }


class Transfer:
    """One process of a transfer. Between transfers its rank stays, if the same processes meet again.

    :param bucket_size: bytes that a receiver holds for the caller at a time.
    :param options: of the :class:`ckpt.ParameterServer`, such as ``device``, ``timeout``, ``heartbeat_timeout``.
    """

    def __init__(self, bucket_size: int, options: Mapping[str, Any]) -> None:
        self._bucket_size = max(1, bucket_size)
        self._options = {"keep_alive": True, **options}
        self._ps: ParameterServer | None = None
        self.session: str | None = None

    def describe(self) -> dict[str, Any]:
        """See :func:`describe`. A rank that is not ready any more leaves its session."""
        if self._ps is not None and not _is_ready(self._ps):
            self.close()
        return describe(self.session)

    def join(self, rank: int, world_size: int, where: Mapping[str, Any]) -> None:
        """Makes this process a rank of the session; returns when all have joined."""
        if self._ps is not None and self.session == where["session"] and self._ps.rank == rank:
            return
        self.close()
        self._ps = ParameterServer(
            rank=rank, world_size=world_size, rendezvous=where["rendezvous"], token=where["token"], **self._options
        )
        self.session = where["session"]

    async def send(self, weights: Iterable[tuple[str, torch.Tensor]], version: str | None) -> dict[str, float]:
        """Sends tensors to all receivers, which all have them when it returns. Returns figures of the transfer.

        Trainers free each tensor when the next one is made, so they are collected in host memory first.
        """
        ps = self._own()
        collected = collect(weights)
        try:
            await asyncio.to_thread(ps.register_checkpoint, _NAME, named_tensors=collected)
            collected.clear()
            report = await asyncio.to_thread(
                ps.update, _NAME, engine=local_engine(_ignore, **self._device()), strategy=broadcast(), version=version
            )
            return {"ckpt/update_s": report.total_ms / 1000, "ckpt/bytes": float(report.bytes)}
        except BaseException:
            self._give_up()
            raise
        finally:
            if self._ps is not None:
                with contextlib.suppress(CkptError):
                    await asyncio.to_thread(ps.unregister_checkpoint, _NAME, force=True)

    async def receive(self, version: str | None) -> AsyncGenerator[Batch, None]:
        """Yields the tensors of one transfer in batches. They are the caller's; it may load them in place of the old ones.

        :param version: the same as the sender's.
        :raises CkptError: if the transfer fails; what was yielded before may then be a part of it.
        """
        ps = self._own()
        batches = _Batches(asyncio.get_running_loop(), self._bucket_size)
        updating = asyncio.ensure_future(
            asyncio.to_thread(self._update, ps, local_engine(batches.put, **self._device()), version)
        )
        updating.add_done_callback(lambda _: batches.end())
        try:
            async for batch in batches:
                yield batch
            await updating
        except BaseException:
            batches.cancel()
            with contextlib.suppress(BaseException):
                await updating
            self._give_up()
            raise

    def close(self) -> None:
        """Leaves the session. Calling it again does nothing."""
        ps, self._ps, self.session = self._ps, None, None
        if ps is not None:
            ps.close()

    @staticmethod
    def _update(ps: ParameterServer, engine: Engine, version: str | None) -> None:
        ps.update(_NAME, engine=engine, strategy=broadcast(), version=version)

    def _own(self) -> ParameterServer:
        if self._ps is None:
            raise error("INVALID_STATE", "this process has not joined a transfer: its process group was not initialised")
        return self._ps

    def _device(self) -> dict[str, Any]:
        """Returns where tensors arrive."""
        if self._own().device != "cuda":
            return {"device": "cpu"}
        import torch

        from ckpt_worker.loading.cuda_driver import device_uuid

        index = str(self._options.get("device", "cuda")).partition(":")[2]
        device = torch.device("cuda", int(index) if index else torch.cuda.current_device())
        return {"device": device, "device_uuid": device_uuid(device)}

    def _give_up(self) -> None:
        """After a failure the next transfer meets again."""
        with contextlib.suppress(CkptError):
            self.close()


class _Batches:
    """Batches on their way from the thread of an update to a coroutine; the thread waits while too much is on its way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._queue: asyncio.Queue[Batch | None] = asyncio.Queue(maxsize=1)
        self._cancelled = False

    def put(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        batch: Batch = []
        size = 0
        for name, tensor in tensors:
            # The update uses its memory again.
            batch.append((name, tensor.clone()))
            size += tensor.nbytes
            if size >= self._limit:
                self._hand_over(batch)
                batch, size = [], 0
        if batch:
            self._hand_over(batch)

    def end(self) -> None:
        """Called in the loop's thread when the update is over."""
        asyncio.ensure_future(self._queue.put(None))  # noqa: RUF006 the queue has a reader, or nobody waits

    def cancel(self) -> None:
        """Makes the update fail: nobody reads any more."""
        self._cancelled = True
        while not self._queue.empty():
            self._queue.get_nowait()

    def _hand_over(self, batch: Batch) -> None:
        import torch

        for device in {tensor.device for _, tensor in batch if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        if self._cancelled:
            raise RuntimeError("the receiver's caller has stopped")
        asyncio.run_coroutine_threadsafe(self._queue.put(batch), self._loop).result()

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> Batch:
        batch = await self._queue.get()
        if batch is None:
            raise StopAsyncIteration
        return batch


def collect(weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Copies tensors to host memory, one after the other."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights}


def drain(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Runs through tensors that a different process sends: making them is a collective."""
    for _ in weights:
        pass


def _ignore(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """The sender's own rank gets the tensors, too."""


def _is_ready(ps: ParameterServer) -> bool:
    try:
        return ps.health().state == "ready"
    except CkptError:
        return False


def _own_address() -> str:
    """Returns the address of this host that others reach: that of Ray, or of the way to the outside."""
    with contextlib.suppress(Exception):
        import ray

        return str(ray.util.get_node_ip_address())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks for the way. The address is one that no machine has.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
