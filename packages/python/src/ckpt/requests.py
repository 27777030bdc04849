"""The calls as data, for :class:`ParameterServer` and :class:`AsyncParameterServer` alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from .choices import Engine, Strategy, without_none
from .client import Services
from .errors import error
from .gather import check_world, gather, has_shards
from .host_writes import HostWrites
from .reports import Created, Health, Metas, PrepareReport, UpdateReport, WorkerState

if TYPE_CHECKING:
    import torch

    from ckpt_worker.trainer import Publication

    #: A state dictionary, or pairs such as those of ``model.named_parameters()``.
    NamedTensors = Mapping[str, Any] | Iterable[tuple[str, torch.Tensor]]

T = TypeVar("T")

#: Path of a file, as programs write it.
StrPath = str | os.PathLike[str]
#: Called with the bytes that are done, and their total.
OnProgress = Callable[[int, int], None]
Verify = Literal["bytes", "sources", "none"] | bool


@dataclass(frozen=True)
class Request(Generic[T]):
    """A call on the rank program."""

    verb: str
    arguments: Mapping[str, Any]
    result: type[T] | None
    on_progress: OnProgress | None = None
    #: Tensors that the program lets this process write to its memory.
    writes: HostWrites | None = None
    #: Engine that the program lets this process call.
    engine: Engine | None = None

    @property
    def services(self) -> Services:
        """What the program may ask for meanwhile."""
        return Services(self.writes, None if self.engine is None else self.engine.call)

    @property
    def is_refused(self) -> bool:
        """True if the system did not let this process write the tensors."""
        return self.writes is not None and self.writes.refused

    def decode(self, value: Any) -> T:
        """Returns the result of the call."""
        if self.result is None:
            return None  # type: ignore[return-value]
        return msgspec.convert(value, self.result)


def create(
    *,
    rank: int | None,
    world_size: int | None,
    rendezvous: str | None,
    token: str | None,
    insecure: bool | None,
    elastic: bool | None,
    device: str,
    keep_alive: bool | None,
    share_memory: bool | None,
    timeout: float | None,
    heartbeat: float | None,
    heartbeat_timeout: float | None,
    threads: int | None,
    serve: bool,
) -> Request[Created]:
    arguments = {
        "rank": rank,
        "worldSize": world_size,
        "rendezvous": rendezvous,
        "token": token,
        "insecure": insecure,
        "elastic": elastic,
        "device": device,
        "keepAlive": keep_alive,
        "shareMemory": share_memory,
        "timeoutMs": _milliseconds(timeout, "timeout"),
        "heartbeatMs": _milliseconds(heartbeat, "heartbeat"),
        "heartbeatTimeoutMs": _milliseconds(heartbeat_timeout, "heartbeat_timeout"),
        "threads": threads,
        "serve": None if serve else False,
    }
    return Request("create", without_none(arguments), Created)


def offer(
    label: str,
    files: Sequence[StrPath] | None,
    directory: StrPath | None,
    named_tensors: Mapping[str, Any] | None,
    make_contiguous: bool,
    share_host: bool,
) -> Publication | None:
    """Checks that there is one source, and publishes tensors if they are it. The caller closes the publication.

    :param share_host: copy CPU tensors to shared memory; otherwise they are to be written to the program's memory.
    :raises CkptError: ``INVALID_ARGUMENT``; naming the tensor for one that cannot be published.
    """
    given = [
        name
        for name, value in (("files", files), ("directory", directory), ("named_tensors", named_tensors))
        if value is not None
    ]
    if len(given) != 1:
        raise error("INVALID_ARGUMENT", f"give one of files, directory and named_tensors, not {given or 'none'}", field="files")
    if named_tensors is None:
        return None
    from ckpt_worker.errors import WorkerError
    from ckpt_worker.trainer import publish

    try:
        return publish(named_tensors, make_contiguous=make_contiguous, label=label, share_host=share_host)
    except WorkerError as reason:
        named = {} if reason.tensor is None else {"tensor": reason.tensor}
        raise error(reason.code, str(reason), **named) from reason


def ways(in_place: bool | None, can_write: bool) -> list[bool]:
    """Returns, in order, if CPU tensors are shared to be registered: the second way is for a system that refuses the first."""
    return [False, True] if can_write and in_place is not True else [True]


def register(
    name: str,
    *,
    files: Sequence[StrPath] | None,
    directory: StrPath | None,
    publication: Publication | None,
    pool: Literal["private", "shared"] | None,
    in_place: bool | None,
    remove_files: bool | None,
    share: tuple[int, int] | None,
    digests: bool | None,
    on_progress: OnProgress | None,
    timeout: float | None,
    device: str,
) -> Request[None]:
    if publication is not None:
        rows = [[t.name, t.dtype, t.shape, t.memory, t.offset, t.size] for t in publication.tensors]
        source: dict[str, Any] = {"offer": {"memories": publication.memories, "tensors": rows}}
        if in_place is None and not publication.unshared:
            # The memory was made for this registration: no need for a second copy of it.
            own = all(memory["kind"] == "shared" for memory in publication.memories)
            in_place = own and bool(rows) and device == "host" and pool != "shared"
        remove_files = True if in_place else None
    elif files is not None:
        source = {"files": [os.path.abspath(file) for file in files]}
    else:
        assert directory is not None
        source = {"directory": os.path.abspath(directory)}
    arguments = {
        "name": name,
        "source": source,
        "pool": pool,
        "inPlace": in_place,
        "removeFiles": remove_files,
        "share": None if share is None else {"index": share[0], "count": share[1]},
        "digests": digests,
        "timeoutMs": _milliseconds(timeout, "timeout"),
    }
    writes = HostWrites(publication.unshared) if publication is not None and publication.unshared else None
    return Request("register", without_none(arguments), None, on_progress, writes)


def unregister(name: str, force: bool) -> Request[None]:
    return Request("unregister", {"name": name, "force": force}, None)


def release_pool(force: bool) -> Request[None]:
    return Request("releasePool", {"force": force}, None)


def gather_metas(name: str, digests: bool, engine: Engine | None, timeout: float | None, world_size: int) -> Request[Metas]:
    arguments = {
        "name": name,
        "digests": digests,
        "engine": None if engine is None else engine.describe(world_size),
        "timeoutMs": _milliseconds(timeout, "timeout"),
    }
    return Request("gatherMetas", without_none(arguments), Metas, engine=engine)


def prepare(
    name: str,
    *,
    engine: Engine,
    strategy: Strategy | None,
    verify: Verify,
    ring_bytes: int | None,
    timeout: float | None,
    world_size: int,
) -> Request[PrepareReport]:
    arguments = {
        "name": name,
        "engine": engine.describe(world_size),
        "strategy": None if strategy is None else strategy.describe(),
        "verify": _level(verify),
        "ringBytes": ring_bytes,
        "timeoutMs": _milliseconds(timeout, "timeout"),
    }
    return Request("prepare", without_none(arguments), PrepareReport, engine=engine)


def get_metas(name: str) -> Request[Metas]:
    return Request("getMetas", {"name": name}, Metas)


def save_metas(name: str, path: StrPath) -> Request[None]:
    return Request("saveMetas", {"name": name, "path": os.path.abspath(path)}, None)


def load_metas(path: StrPath) -> Request[Metas]:
    return Request("loadMetas", {"path": os.path.abspath(path)}, Metas)


def publish_metas(name: str) -> Request[None]:
    return Request("publishMetas", {"name": name}, None)


def fetch_metas(name: str, address: str, token: str | None, run: str | None, timeout: float | None) -> Request[Metas]:
    arguments = {"name": name, "address": address, "token": token, "run": run, "timeoutMs": _milliseconds(timeout, "timeout")}
    return Request("fetchMetas", without_none(arguments), Metas)


def update(
    name: str,
    *,
    engine: Engine,
    strategy: Strategy | None,
    version: str | None,
    verify: Verify,
    ring_bytes: int | None,
    bucket_bytes: int | None,
    chunk_bytes: int | None,
    keep_alive: bool | None,
    retry: int | None,
    rollback: bool | None,
    on_progress: OnProgress | None,
    timeout: float | None,
    world_size: int,
) -> Request[UpdateReport]:
    arguments = {
        "name": name,
        "engine": engine.describe(world_size),
        "strategy": None if strategy is None else strategy.describe(),
        "version": version,
        "verify": _level(verify),
        "ringBytes": ring_bytes,
        "bucketBytes": bucket_bytes,
        "chunkBytes": chunk_bytes,
        "keepAlive": keep_alive,
        "retry": retry,
        "rollback": rollback,
        "timeoutMs": _milliseconds(timeout, "timeout"),
    }
    return Request("update", without_none(arguments), UpdateReport, on_progress, engine=engine)


def engine_states() -> Request[list[WorkerState]]:
    return Request("engineStates", {}, list[WorkerState])


def health() -> Request[Health]:
    return Request("health", {}, Health)


def close() -> Request[None]:
    return Request("close", {}, None)


def _level(verify: Verify) -> str | None:
    return None if verify is True else "none" if verify is False else verify


def _milliseconds(seconds: float | None, field: str) -> float | None:
    if seconds is None:
        return None
    if not 0 < seconds < float("inf"):
        raise error("INVALID_ARGUMENT", f"{field}: {seconds} is not a time in seconds", field=field)
    return seconds * 1000


def mapping(tensors: NamedTensors | None, world_size: int) -> Mapping[str, Any] | None:
    """Returns tensors by name; of sharded ones this rank's part of the whole tensors, which all ranks gather together.

    :raises OperationError: ``INVALID_ARGUMENT`` for a name that appears twice.
    """
    if tensors is None:
        return None
    if isinstance(tensors, Mapping):
        return _gathered(tensors, world_size)
    pairs = list(tensors)
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise error("INVALID_ARGUMENT", f"tensor {twice!r}: the name appears twice", tensor=twice, field="named_tensors")
    return _gathered(found, world_size)


def _gathered(tensors: Mapping[str, Any], world_size: int) -> Mapping[str, Any]:
    if not has_shards(tensors):
        return tensors
    check_world(world_size)
    return gather(tensors)
