"""One rank, for programs with an asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from . import requests
from .choices import Engine, Strategy
from .client import Client, Event, Progress
from .errors import CkptError, error
from .parameter_server import CANCEL_WITHIN, END_WITHIN, START_TIMEOUT, TICK, outcome
from .reports import Created, Health, Metas, PrepareReport, UpdateReport, WorkerState
from .requests import OnProgress, Request, StrPath, Verify

if TYPE_CHECKING:
    from .requests import NamedTensors

T = TypeVar("T")


class AsyncParameterServer:
    """A :class:`ParameterServer` whose calls are coroutines, with the same arguments and errors.

    .. code-block:: python

        async with AsyncParameterServer() as ps:
            await ps.register_checkpoint("step-1", named_tensors=model.state_dict())
            report = await ps.update("step-1", engine=vllm("http://127.0.0.1:8000"))

    A cancelled call ends within a few seconds, and the next one is possible.
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        rendezvous: str | None = None,
        token: str | None = None,
        insecure: bool | None = None,
        elastic: bool | None = None,
        device: str = "auto",
        keep_alive: bool | None = None,
        share_memory: bool | None = None,
        timeout: float | None = None,
        heartbeat: float | None = None,
        heartbeat_timeout: float | None = None,
        threads: int | None = None,
        serve: bool = True,
    ) -> None:
        self._request = requests.create(
            rank=rank,
            world_size=world_size,
            rendezvous=rendezvous,
            token=token,
            insecure=insecure,
            elastic=elastic,
            device=device,
            keep_alive=keep_alive,
            share_memory=share_memory,
            timeout=timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
            threads=threads,
            serve=serve,
        )
        self._started: tuple[Client, Created] | None = None

    async def start(self) -> None:
        """Starts the rank program and joins the other ranks; ``async with`` does it, too."""
        if self._started is not None:
            raise error("INVALID_STATE", "the parameter server was started already")
        client = await _in_thread(lambda: Client(START_TIMEOUT), undo=Client.end)
        try:
            self._started = client, await _run(client, self._request)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(client.end))
            raise
        # A parameter server that nobody can reach any more ends its program.
        weakref.finalize(self, Client.end, client, END_WITHIN)

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self._own()[1].rank

    @property
    def world_size(self) -> int:
        """Number of ranks at the start."""
        return self._own()[1].world_size

    @property
    def device(self) -> str:
        """Kind of the device that holds the engine's parameters: ``host`` or ``cuda``."""
        return self._own()[1].device

    @property
    def pid(self) -> int:
        """Process id of the rank program."""
        return self._own()[0].process.pid

    async def register_checkpoint(
        self,
        name: str,
        *,
        files: Sequence[StrPath] | None = None,
        directory: StrPath | None = None,
        named_tensors: NamedTensors | None = None,
        pool: Literal["private", "shared"] | None = None,
        in_place: bool | None = None,
        remove_files: bool | None = None,
        share: tuple[int, int] | None = None,
        digests: bool | None = None,
        make_contiguous: bool = False,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> None:
        """See :meth:`ParameterServer.register_checkpoint`."""
        client, created = self._own()
        client.check_process()
        tensors = requests.mapping(named_tensors, self.world_size)
        for share_host in requests.ways(in_place, client.can_write):
            publication = await _in_thread(
                functools.partial(requests.offer, client.process.label, files, directory, tensors, make_contiguous, share_host),
                undo=lambda made: None if made is None else made.close(),
            )
            with publication or contextlib.nullcontext():
                request = requests.register(
                    name,
                    files=files,
                    directory=directory,
                    publication=publication,
                    pool=pool,
                    in_place=in_place,
                    remove_files=remove_files,
                    share=share,
                    digests=digests,
                    on_progress=on_progress,
                    timeout=timeout,
                    device=created.device,
                )
                try:
                    await self._run(request)
                except CkptError:
                    if not request.is_refused:
                        raise
                else:
                    return

    async def unregister_checkpoint(self, name: str, *, force: bool = False) -> None:
        """See :meth:`ParameterServer.unregister_checkpoint`."""
        await self._run(requests.unregister(name, force))

    async def release_pool(self, *, force: bool = False) -> None:
        """See :meth:`ParameterServer.release_pool`."""
        await self._run(requests.release_pool(force))

    async def gather_metas(
        self,
        name: str,
        *,
        digests: bool = False,
        engine: Engine | None = None,
        timeout: float | None = None,
    ) -> Metas:
        """See :meth:`ParameterServer.gather_metas`."""
        return await self._run(requests.gather_metas(name, digests, engine, timeout, self.world_size))

    async def prepare(
        self,
        name: str,
        *,
        engine: Engine,
        strategy: Strategy | None = None,
        verify: Verify = True,
        ring_bytes: int | None = None,
        timeout: float | None = None,
    ) -> PrepareReport:
        """See :meth:`ParameterServer.prepare`."""
        return await self._run(
            requests.prepare(
                name,
                engine=engine,
                strategy=strategy,
                verify=verify,
                ring_bytes=ring_bytes,
                timeout=timeout,
                world_size=self.world_size,
            )
        )

    async def get_metas(self, name: str) -> Metas:
        """See :meth:`ParameterServer.get_metas`."""
        return await self._run(requests.get_metas(name))

    async def save_metas(self, name: str, path: StrPath) -> None:
        """See :meth:`ParameterServer.save_metas`."""
        await self._run(requests.save_metas(name, path))

    async def load_metas(self, path: StrPath) -> Metas:
        """See :meth:`ParameterServer.load_metas`."""
        return await self._run(requests.load_metas(path))

    async def publish_metas(self, name: str) -> None:
        """See :meth:`ParameterServer.publish_metas`."""
        await self._run(requests.publish_metas(name))

    async def fetch_metas(
        self,
        name: str,
        address: str,
        *,
        token: str | None = None,
        run: str | None = None,
        timeout: float | None = None,
    ) -> Metas:
        """See :meth:`ParameterServer.fetch_metas`."""
        return await self._run(requests.fetch_metas(name, address, token, run, timeout))

    async def update(
        self,
        name: str,
        *,
        engine: Engine,
        strategy: Strategy | None = None,
        version: str | None = None,
        verify: Verify = True,
        ring_bytes: int | None = None,
        bucket_bytes: int | None = None,
        chunk_bytes: int | None = None,
        keep_alive: bool | None = None,
        retry: int | None = None,
        rollback: bool | None = None,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> UpdateReport:
        """See :meth:`ParameterServer.update`."""
        return await self._run(
            requests.update(
                name,
                engine=engine,
                strategy=strategy,
                version=version,
                verify=verify,
                ring_bytes=ring_bytes,
                bucket_bytes=bucket_bytes,
                chunk_bytes=chunk_bytes,
                keep_alive=keep_alive,
                retry=retry,
                rollback=rollback,
                on_progress=on_progress,
                timeout=timeout,
                world_size=self.world_size,
            )
        )

    async def engine_states(self) -> list[WorkerState]:
        """See :meth:`ParameterServer.engine_states`."""
        return await self._run(requests.engine_states())

    async def health(self) -> Health:
        """See :meth:`ParameterServer.health`."""
        return await self._run(requests.health())

    async def close(self) -> None:
        """See :meth:`ParameterServer.close`."""
        if self._started is None or self._started[0].is_foreign:
            return
        client, _ = self._started
        client.closing = True
        with contextlib.suppress(CkptError):
            await _run(client, requests.close())
        await asyncio.to_thread(client.end)

    async def __aenter__(self) -> AsyncParameterServer:
        if self._started is None:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AsyncParameterServer belongs to one process: create it in the process that uses it")

    def _own(self) -> tuple[Client, Created]:
        if self._started is None:
            raise error("INVALID_STATE", "the parameter server was not started: use async with, or await start()")
        return self._started

    async def _run(self, request: Request[T]) -> T:
        return await _run(self._own()[0], request)


async def _in_thread(make: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Runs ``make`` in a thread. If the caller is cancelled meanwhile, what it makes is undone."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:

        def over(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                undo(done.result())

        making.add_done_callback(over)
        raise


async def _run(client: Client, request: Request[T]) -> T:
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def deliver(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    started = time.monotonic()
    call = client.start(request.verb, request.arguments, deliver, request.on_progress is not None, request.services)
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), TICK)
            except asyncio.TimeoutError:
                client.check_alive(started)
                continue
            if isinstance(event, Progress):
                if request.on_progress is not None:
                    request.on_progress(event.done, event.total)
                continue
            break
    except BaseException:
        if await asyncio.shield(asyncio.to_thread(client.cancel, call)):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_end(events), CANCEL_WITHIN)
        raise
    return outcome(request, event)


async def _end(events: asyncio.Queue[Event]) -> None:
    while isinstance(await events.get(), Progress):
        pass
