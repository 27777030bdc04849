"""One rank, for programs that wait for each call."""

from __future__ import annotations

import contextlib
import queue
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from . import requests
from .choices import Engine, Strategy
from .client import Client, Event, Progress, Result
from .errors import CkptError
from .reports import Health, Metas, PrepareReport, UpdateReport, WorkerState
from .requests import OnProgress, Request, StrPath, Verify

if TYPE_CHECKING:
    from .requests import NamedTensors

T = TypeVar("T")

#: Time in seconds for the rank program to start; a bundle unpacks its Node at the first start.
START_TIMEOUT = 120.0
#: Time in seconds for a cancelled call to end.
CANCEL_WITHIN = 5.0
#: Time in seconds for the program of a forgotten parameter server to end.
END_WITHIN = 5.0
#: Interval in seconds at which waiting calls look for signs of life.
TICK = 1.0


class ParameterServer:
    """One rank: holds checkpoints in host memory and, with the other ranks, moves them into running inference engines.

    It starts a process of its own, the rank program, and ends it. That process ends, too, if this one is killed. Every failure
    is a :class:`CkptError`. Calls that concern all ranks (``gather_metas``, ``update``) must be made on every rank.

    In a process that was forked since, calls raise ``INVALID_STATE``, and ``close`` does nothing: create another one there.

    :param rank: number of this rank (default: ``RANK``, or 0).
    :param world_size: number of ranks (default: ``WORLD_SIZE``, or 1).
    :param rendezvous: address where the ranks meet, ``tcp://host:port`` (default: from ``MASTER_ADDR`` and ``MASTER_PORT``, so
        that ranks of torchrun find each other).
    :param token: secret of the run (default: ``CKPT_TOKEN``).
    :param insecure: run without a secret.
    :param elastic: ranks may be added between updates.
    :param device: memory of the engine's parameters: ``cpu``, ``cuda`` (the GPU with the number ``LOCAL_RANK``), ``cuda:N``, or
        ``auto``: ``cuda`` if there is a GPU.
    :param keep_alive: keep ring and communicator between updates (default false: the engine gets the memory back).
    :param share_memory: hold checkpoints in memory that other ranks of this host can map; direct updates of several ranks
        need it.
    :param timeout: deadline of every wait, in seconds (default 120).
    :param heartbeat: time between two heartbeats, in seconds.
    :param heartbeat_timeout: silence after which a rank counts as lost, in seconds.
    :param threads: threads for copies and reads.
    :param serve: serve this rank's checkpoints to ranks that pull them (p2p).
    :raises CkptError: ``RANK_MISSING``, ``RENDEZVOUS_REJECTED``, ``INVALID_ARGUMENT`` naming the option or variable,
        ``ADDON_UNAVAILABLE``.
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
        request = requests.create(
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
        self._client = Client(START_TIMEOUT)
        # A parameter server that nobody can reach any more ends its program.
        weakref.finalize(self, Client.end, self._client, END_WITHIN)
        try:
            self._created = self._run(request)
        except BaseException:
            self._client.end()
            raise

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self._created.rank

    @property
    def world_size(self) -> int:
        """Number of ranks at the start."""
        return self._created.world_size

    @property
    def device(self) -> str:
        """Kind of the device that holds the engine's parameters: ``host`` or ``cuda``."""
        return self._created.device

    @property
    def pid(self) -> int:
        """Process id of the rank program."""
        return self._client.process.pid

    def register_checkpoint(
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
        """Takes a checkpoint into this rank's memory under ``name``. Afterwards the tensors may be written to or freed.

        :param files: safetensors files that together hold it.
        :param directory: a directory with safetensors files, an index or a single file.
        :param named_tensors: a state dictionary, or pairs of name and tensor. CUDA tensors are read by CUDA IPC, CPU tensors
            are written to the rank's memory (docs/trainers.md).
        :param pool: ``private`` memory is released on unregistering, ``shared`` memory stays for the next checkpoint (default
            private).
        :param in_place: use files in /dev/shm where they are; CPU tensors are copied to shared memory, which is used in place.
        :param remove_files: remove files that are used in place from /dev/shm once registered.
        :param share: (index, count): take only this part of the files; for ranks that are all given the same ones.
        :param digests: compute the digests that verify updates while files are read (default true).
        :param make_contiguous: copy tensors that are not contiguous; otherwise they are refused.
        :param on_progress: called with the bytes that are done, and their total. If it raises, the registration is cancelled.
        :param timeout: deadline of the registration, in seconds (default: none).
        :raises CheckpointError: ``CHECKPOINT_EXISTS``, ``CHECKPOINT_MALFORMED`` and ``CHECKPOINT_UNREADABLE`` naming the file.
        :raises OperationError: ``INVALID_ARGUMENT`` naming the tensor that cannot be published, ``OUT_OF_MEMORY``.
        """
        self._client.check_process()
        tensors = requests.mapping(named_tensors, self.world_size)
        for share_host in requests.ways(in_place, self._client.can_write):
            publication = requests.offer(self._client.process.label, files, directory, tensors, make_contiguous, share_host)
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
                    device=self.device,
                )
                try:
                    self._run(request)
                except CkptError:
                    if not request.is_refused:
                        raise
                else:
                    return

    def unregister_checkpoint(self, name: str, *, force: bool = False) -> None:
        """Releases a checkpoint's memory; the name is free at once.

        :raises CheckpointError: ``CHECKPOINT_UNKNOWN``, ``CHECKPOINT_IN_USE`` unless forced.
        """
        self._run(requests.unregister(name, force))

    def release_pool(self, *, force: bool = False) -> None:
        """Releases the shared pool's idle memory. :raises CheckpointError: ``CHECKPOINT_IN_USE`` unless forced."""
        self._run(requests.release_pool(force))

    def gather_metas(
        self,
        name: str,
        *,
        digests: bool = False,
        engine: Engine | None = None,
        timeout: float | None = None,
    ) -> Metas:
        """Gathers what every rank holds of ``name``; all ranks call it, also those that hold nothing.

        :param digests: compute every tensor's digest first (once for each registration).
        :param engine: also prepare updates of this engine (:meth:`prepare`); all ranks give one, or none does.
        """
        return self._run(requests.gather_metas(name, digests, engine, timeout, self.world_size))

    def prepare(
        self,
        name: str,
        *,
        engine: Engine,
        strategy: Strategy | None = None,
        verify: Verify = True,
        ring_bytes: int | None = None,
        timeout: float | None = None,
    ) -> PrepareReport:
        """Does what an update does before bytes move, while the engine serves; all ranks call it.

        It is kept for updates of checkpoints of the same layout in the same memory, so that only the first call takes long.
        ``update`` without it does the same itself. What cannot be prepared is no error: the report has the reason.
        """
        return self._run(
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

    def get_metas(self, name: str) -> Metas:
        """Returns the metas that were last gathered or loaded. :raises CheckpointError: ``CHECKPOINT_UNKNOWN``."""
        return self._run(requests.get_metas(name))

    def save_metas(self, name: str, path: StrPath) -> None:
        """Writes the gathered metas to a file, from which ranks of another world can join."""
        self._run(requests.save_metas(name, path))

    def load_metas(self, path: StrPath) -> Metas:
        """Loads metas of another world: this world's ranks can then pull that checkpoint (:func:`p2p`)."""
        return self._run(requests.load_metas(path))

    def publish_metas(self, name: str) -> None:
        """Publishes the gathered metas at the coordinator, for :meth:`fetch_metas` of another world. One rank calls it."""
        self._run(requests.publish_metas(name))

    def fetch_metas(
        self,
        name: str,
        address: str,
        *,
        token: str | None = None,
        run: str | None = None,
        timeout: float | None = None,
    ) -> Metas:
        """Fetches the metas that were published at another world's coordinator, ``tcp://host:port``."""
        return self._run(requests.fetch_metas(name, address, token, run, timeout))

    def update(
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
        """Moves a checkpoint into the engine's workers; all ranks call it with the same options. Gathers metas if necessary.

        :param engine: :func:`vllm`, :func:`sglang` or :func:`control_engine`.
        :param strategy: :func:`auto` (default), :func:`broadcast`, :func:`direct` or :func:`p2p`.
        :param version: what the engine reports afterwards (default: the checkpoint's name).
        :param verify: extent of the comparison: ``bytes``, ``sources`` or ``none``; True: as much as needs no recording.
        :param ring_bytes: largest ring; ``bucket_bytes``, ``chunk_bytes``: preferred sizes (defaults: chosen from free memory).
        :param keep_alive: keep ring and communicator after this update.
        :param retry: further attempts after a first one that failed for a reason that may pass.
        :param rollback: if the update fails after workers received parts of it, restore the version applied last.
        :param on_progress: called with the bytes that were loaded, and their total. If it raises, the update is cancelled.
        :param timeout: deadline of every wait in the update, in seconds (default: that of the parameter server).
        :raises CkptError: of the rank that failed first; on the other ranks it is the ``cause`` of ``ABORTED``. The field
            ``dirty`` names the ranks whose workers may hold parts of the update.
        """
        return self._run(
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

    def engine_states(self) -> list[WorkerState]:
        """Returns what is known of the engine workers of all ranks: version, and dirty after a failed update."""
        return self._run(requests.engine_states())

    def health(self) -> Health:
        """Returns this rank's readiness for an update."""
        return self._run(requests.health())

    def close(self) -> None:
        """Leaves the other ranks, releases everything and ends the rank program. Calling it again does nothing."""
        if self._client.is_foreign:
            return
        self._client.closing = True
        with contextlib.suppress(CkptError):
            self._run(requests.close())
        self._client.end()

    def __enter__(self) -> ParameterServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ParameterServer belongs to one process: create it in the process that uses it")

    def _run(self, request: Request[T]) -> T:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        started = time.monotonic()
        call = self._client.start(
            request.verb, request.arguments, events.put, request.on_progress is not None, request.services
        )
        try:
            while True:
                try:
                    event = events.get(timeout=TICK)
                except queue.Empty:
                    self._client.check_alive(started)
                    continue
                if isinstance(event, Progress):
                    if request.on_progress is not None:
                        request.on_progress(event.done, event.total)
                    continue
                break
        except BaseException:
            if self._client.cancel(call):
                _drain(events)
            raise
        return outcome(request, event)


def _drain(events: queue.SimpleQueue[Event]) -> None:
    """Waits for the end of a cancelled call, so that the next one finds the rank idle."""
    deadline = time.monotonic() + CANCEL_WITHIN
    with contextlib.suppress(queue.Empty):
        while isinstance(events.get(timeout=max(0.0, deadline - time.monotonic())), Progress):
            pass


def outcome(request: Request[T], event: Event) -> T:
    """Returns the result of a call, or raises its error."""
    if isinstance(event, Result):
        return request.decode(event.value)
    assert isinstance(event, CkptError)
    raise event
