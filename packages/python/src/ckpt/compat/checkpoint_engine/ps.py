"""``ParameterServer`` with checkpoint-engine's signature."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ... import choices, engines, parameter_server
from ...errors import CkptError, error

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("ckpt.compat")
#: checkpoint-engine's own module, if the program uses it beside this one: it must know the process group.
_THEIRS: Final = "checkpoint_engine.distributed"


@dataclass(frozen=True)
class Metas:
    """Gathered metas, to be saved (with pickle, as the example does) and loaded by ranks of a different world.

    They hold the secrets with which ranks pull from this world's: let nobody else read the file.
    """

    data: bytes


class ParameterServer:
    """A rank with checkpoint-engine's calls. ``server`` is the :class:`ckpt.ParameterServer` behind it.

    :param rank: number of this rank (default: ``RANK``).
    :param world_size: number of ranks (default: ``WORLD_SIZE``).
    :param auto_pg: true (default): updates release ring, communicator and torch's process group; false: they are kept.
    :param gpu_count: GPUs of this machine; the rank uses the one with the number rank modulo gpu_count (default: all visible).
    :param mem_fraction: share of the free GPU memory for an update (default: ``PS_MEM_FRACTION``, or 0.5).
    :param master_addr: host where the ranks meet (default: ``MASTER_ADDR``).
    :param master_port: its port (default: ``MASTER_PORT``). The port after it is for torch's process group.
    """

    shared_memory_pool_name = "__shared_memory_pool__"

    def __init__(
        self,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        auto_pg: bool = True,
        gpu_count: int | None = None,
        mem_fraction: float | None = None,
        master_addr: str | None = None,
        master_port: int | None = None,
    ) -> None:
        self._rank = int(os.environ["RANK"]) if rank is None else rank
        self._world_size = world_size or int(os.environ["WORLD_SIZE"])
        self._auto_pg = auto_pg
        self._host = master_addr or os.environ.get("MASTER_ADDR") or "127.0.0.1"
        self._port = master_port or int(os.environ.get("MASTER_PORT", "0"))
        self._store: Any = None
        self._groups = 0
        self._gathered: str | None = None
        with _environment("PS_MEM_FRACTION", None if mem_fraction is None else str(mem_fraction)):
            self.server = parameter_server.ParameterServer(
                rank=self._rank,
                world_size=self._world_size,
                # Without: torchrun's own store keeps its port.
                rendezvous=None if master_addr is None and master_port is None else f"tcp://{self._host}:{self._port}",
                insecure=None if "CKPT_TOKEN" in os.environ else True,
                device=_device(self._rank, gpu_count),
                keep_alive=not auto_pg,
                share_memory=True,
            )

    def register_checkpoint(
        self,
        checkpoint_name: str,
        *,
        files: list[str] | None = None,
        named_tensors: dict[str, torch.Tensor] | None = None,
        use_shared_memory_pool: bool = False,
        use_inplace_pin_memory: bool = True,
    ) -> None:
        """Registers files and tensors together under a name.

        Safetensors files in /dev/shm are used in place and REMOVED if there are no tensors, the device is a GPU,
        ``use_inplace_pin_memory`` is true and ``use_shared_memory_pool`` is false, as with checkpoint-engine.
        """
        pool = "shared" if use_shared_memory_pool else "private"
        if files and not named_tensors:
            there = all(os.path.realpath(file).startswith("/dev/shm/") for file in files)
            in_place = there and use_inplace_pin_memory and not use_shared_memory_pool and self.server.device == "cuda"
            self.server.register_checkpoint(
                checkpoint_name,
                files=files,
                pool=pool,  # type: ignore[arg-type]
                in_place=in_place or None,
                remove_files=in_place or None,
            )
            return
        tensors = dict(named_tensors or {})
        for file in files or []:
            tensors |= importlib.import_module("safetensors.torch").load_file(file)
        self.server.register_checkpoint(
            checkpoint_name,
            named_tensors=tensors,
            pool=pool,  # type: ignore[arg-type]
            make_contiguous=True,
        )

    def unregister_checkpoint(self, checkpoint_name: str, force: bool = False) -> None:
        """Releases a checkpoint; one that is not registered is only logged. ``force`` releases the shared pool, too."""
        try:
            self.server.unregister_checkpoint(checkpoint_name, force=force)
        except CkptError as reason:
            if reason.code != "CHECKPOINT_UNKNOWN":
                raise
            _log.warning("checkpoint %s is not registered", checkpoint_name)
        if force:
            self.server.release_pool()

    def gather_metas(self, checkpoint_name: str) -> None:
        """Gathers what every rank holds; all ranks call it. If none holds anything, metas may be loaded afterwards."""
        try:
            self.server.gather_metas(checkpoint_name)
            self._gathered = checkpoint_name
        except CkptError as reason:
            if reason.code != "CHECKPOINT_UNKNOWN":
                raise
            _log.info("no rank has registered %s", checkpoint_name)

    def get_metas(self) -> Metas:
        """Returns the metas that were last gathered or loaded."""
        if self._gathered is None:
            raise error("CHECKPOINT_UNKNOWN", "no metas were gathered or loaded yet")
        with tempfile.TemporaryDirectory(prefix="ckpt-metas-") as directory:
            path = os.path.join(directory, "metas")
            self.server.save_metas(self._gathered, path)
            with open(path, "rb") as file:
                return Metas(file.read())

    def load_metas(self, metas: Metas) -> None:
        """Loads metas of a different world: updates with ``ranks`` then pull its checkpoint."""
        with tempfile.TemporaryDirectory(prefix="ckpt-metas-") as directory:
            path = os.path.join(directory, "metas")
            # Ranks load metas only of files that others cannot read.
            with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(metas.data)
            self.server.load_metas(path)

    def init_process_group(self, *, timeout: timedelta = timedelta(minutes=10)) -> None:
        """Creates torch's default process group, for the program's own use: updates do not need it."""
        import torch

        self._groups += 1
        distributed: Any = torch.distributed
        store = distributed.PrefixStore(f"prefix-{self._groups}", self._own_store())
        backend = "nccl" if self.server.device == "cuda" and torch.cuda.is_available() else "gloo"
        _distributed().init_process_group(
            rank=self._rank, world_size=self._world_size, store=store, backend=backend, timeout=timeout
        )

    def store_based_barrier(self, timeout: timedelta = timedelta(minutes=5)) -> None:
        """Waits for all ranks."""
        import torch

        distributed: Any = torch.distributed
        distributed.distributed_c10d._store_based_barrier(
            rank=self._rank,
            store=self._own_store(),
            group_name="parameter_server_barrier",
            rendezvous_count=self._world_size,
            timeout=timeout,
        )

    def update(
        self,
        checkpoint_name: str,
        req_func: Callable[[list[tuple[str, str]]], None],
        *,
        timeout: timedelta = timedelta(minutes=10),
        ranks: list[int] | None = None,
    ) -> None:
        """Moves a checkpoint into the engines' workers; all ranks call it.

        :param req_func: called on every rank with (device, address) of every rank; starts the workers of this rank's engine.
        :param ranks: only these ranks have engines and pull the checkpoint (default: all get it by broadcast).
        """
        try:
            if ranks and self._rank not in ranks:
                return
            self.server.update(
                checkpoint_name,
                engine=engines.requested_engine(req_func),
                strategy=choices.p2p(ranks) if ranks else choices.broadcast(),
                timeout=timeout.total_seconds(),
            )
        finally:
            distributed = _distributed()
            if self._auto_pg and distributed.is_initialized():
                distributed.destroy_process_group()

    def close(self) -> None:
        """Leaves the other ranks and releases everything; at the end of the program it happens by itself."""
        self.server.close()

    def __enter__(self) -> ParameterServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _own_store(self) -> Any:
        import torch

        distributed: Any = torch.distributed
        if self._store is None:
            self._store = distributed.TCPStore(
                self._host, self._port + 1, self._world_size, timeout=timedelta(minutes=10), is_master=self._rank == 0
            )
        return self._store


def _distributed() -> Any:
    """Returns the module through which the program uses torch's process group."""
    return sys.modules.get(_THEIRS) or importlib.import_module(".distributed", __package__)


def _device(rank: int, gpu_count: int | None) -> str:
    import torch

    count = gpu_count or (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return f"cuda:{rank % count}" if count else "cpu"


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Any:
    """Sets a variable for the rank program that is started meanwhile."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
