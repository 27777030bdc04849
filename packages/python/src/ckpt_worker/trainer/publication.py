"""Makes a trainer's tensors readable for other processes: GPU memory by CUDA IPC, the rest by POSIX shared memory."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import logging
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import torch

from ..errors import UnsupportedError
from ..loading.cuda_driver import IPC_HANDLE_BYTES, IpcHandle, address_range, device_uuid, error_text, load_driver
from ..loading.digest import flat_bytes
from ..loading.memory_identity import SHM_DIRECTORY, MemoryIdentity
from .publishable import Publishable, check_name, publishable, reason_to_skip

_log = logging.getLogger(__name__)

#: Alignment of tensors in shared memory.
_ALIGNMENT: Final = 256


@dataclass(frozen=True)
class PublishedTensor:
    """Position of a tensor: ``offset`` bytes into ``memories[memory]`` of the :class:`Publication`."""

    name: str
    #: By its safetensors name.
    dtype: str
    shape: list[int]
    memory: int
    offset: int
    #: Size in bytes.
    size: int


class Publication:
    """Published tensors. It keeps them alive until :meth:`close`; they must not be written to until then."""

    def __init__(
        self,
        memories: list[dict[str, Any]],
        tensors: list[PublishedTensor],
        held: list[torch.Tensor],
        skipped: Mapping[str, str] | None = None,
        unshared: Sequence[torch.Tensor] = (),
    ) -> None:
        #: Shared memory, in the form of docs/trainers.md.
        self.memories = memories
        self.tensors = tensors
        #: Entries of the dictionary that hold no weights and were left out, with reasons, by name.
        self.skipped: Mapping[str, str] = skipped or {}
        #: CPU tensors of ``memories`` of the kind ``client``, in the order of ``tensors``: nobody else can read them.
        self.unshared = unshared
        self._held = held
        self._process = os.getpid()

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    def describe(self) -> bytes:
        """Returns the ``tensors`` message of docs/trainers.md."""
        rows = [[t.name, t.dtype, t.shape, t.memory, t.offset, t.size] for t in self.tensors]
        return json.dumps({"type": "tensors", "memories": self.memories, "tensors": rows}, separators=(",", ":")).encode()

    def close(self) -> None:
        """Releases the tensors and removes the shared memory's name; calling it again does nothing.

        In a process forked since, the shared memory stays, because it belongs to the parent.
        """
        self._held, self.unshared = [], ()
        if os.getpid() != self._process:
            return
        for memory in self.memories:
            if memory["kind"] == "shared":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(SHM_DIRECTORY, memory["name"]))

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def publish(
    tensors: Mapping[str, Any], *, make_contiguous: bool = False, label: str | None = None, share_host: bool = True
) -> Publication:
    """Makes tensors readable for the ranks of this machine. Waits until all writes to them on their GPUs are done.

    CUDA tensors stay where they are: no byte is copied, and tensors of one allocation share one handle. CPU tensors are copied
    to shared memory. Views that conjugate or negate are copied, so that their bytes are what torch reads from them.

    :param tensors: a state dictionary. Entries that are None, and modules' extra state that is not a tensor, hold no weights:
    they
        are left out, and ``skipped`` of the result names them. Every other entry must be a tensor.
    :param make_contiguous: copy tensors that are not contiguous; otherwise they are refused.
    :param label: beginning of the shared memory's name (default: a name with this process's id).
    :param share_host: copy CPU tensors to shared memory (default); otherwise they are only described, and whoever publishes
        them moves their bytes.
    :raises LayoutError: naming the tensor that cannot be published, the reason, and a remedy.
    :raises UnsupportedError: naming the tensor: its memory cannot be shared (expandable segments), or there is no CUDA driver.
    """
    skipped: dict[str, str] = {}
    ready: dict[str, Publishable] = {}
    for key, value in tensors.items():
        name = check_name(key)
        reason = reason_to_skip(name, value)
        if reason is None:
            ready[name] = publishable(name, value, make_contiguous)
        else:
            skipped[name] = reason
    if skipped:
        _log.warning(
            "not published, because they hold no weights: %s", ", ".join(f"{name!r} ({why})" for name, why in skipped.items())
        )
    memories: list[dict[str, Any]] = []
    on_host = {name: entry.tensor for name, entry in ready.items() if not entry.tensor.is_cuda}
    if share_host:
        places = _place_on_host(on_host, memories, label or f"ckpt-trainer-{os.getpid()}-")
    else:
        places = dict.fromkeys(on_host, (0, 0))
        if on_host:
            memories.append({"kind": "client", "bytes": max(tensor.nbytes for tensor in on_host.values())})
    on_gpus = {name: entry.tensor for name, entry in ready.items() if entry.tensor.is_cuda}
    try:
        places |= _export(on_gpus, memories)
    except BaseException:
        Publication(memories, [], []).close()
        raise
    published = []
    for name, entry in ready.items():
        memory, offset = places[name]
        size = entry.tensor.numel() * entry.tensor.element_size()
        published.append(PublishedTensor(name, entry.dtype, entry.shape, memory, offset, size))
    unshared = [] if share_host else list(on_host.values())
    return Publication(memories, published, list(on_gpus.values()), skipped, unshared)


def _place_on_host(
    tensors: Mapping[str, torch.Tensor], memories: list[dict[str, Any]], label: str
) -> dict[str, tuple[int, int]]:
    """Copies CPU tensors to one new piece of shared memory that only the user can access."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name, tensor in tensors.items():
        places[name] = (len(memories), end)
        end += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    if not places:
        return places
    total = max(end, _ALIGNMENT)
    shared = f"{label}{secrets.token_hex(6)}"
    path = os.path.join(SHM_DIRECTORY, shared)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Allocated now, so that a lack of memory is an error here and not a signal during the copy.
        os.posix_fallocate(descriptor, 0, total)
        with mmap.mmap(descriptor, total) as mapping:
            target = torch.frombuffer(mapping, dtype=torch.uint8)
            for name, tensor in tensors.items():
                data = flat_bytes(tensor)
                target[places[name][1] :][: data.numel()].copy_(data)
            del target
    except BaseException:
        os.unlink(path)
        raise
    else:
        # Identity with which ranks check that they opened this memory, and not something else of its name.
        identity = MemoryIdentity.of(descriptor)
    finally:
        os.close(descriptor)
    memories.append({"kind": "shared", "name": shared, "bytes": total, "device": identity.device, "inode": identity.inode})
    return places


def _export(tensors: Mapping[str, torch.Tensor], memories: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Returns handles of the allocations that contain CUDA tensors, each once."""
    places: dict[str, tuple[int, int]] = {}
    by_device: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        by_device.setdefault(tensor.device, []).append((name, tensor))
    for device, members in by_device.items():
        driver, uuid = load_driver("sharing a CUDA tensor"), device_uuid(device)
        # Index of the memory, by base address.
        known: dict[int, int] = {}
        with torch.cuda.device(device):
            # Writes to the tensors, on any stream, are over then, and the device's context is current on this thread.
            torch.cuda.synchronize(device)
            for name, tensor in members:
                base, size, handle = _allocation(driver, name, tensor, known)
                if base not in known:
                    known[base] = len(memories)
                    memories.append({"kind": "cuda", "handle": handle, "deviceUuid": uuid, "bytes": size})
                places[name] = (known[base], tensor.data_ptr() - base if size else 0)
    return places


def _allocation(driver: ctypes.CDLL, name: str, tensor: torch.Tensor, known: Mapping[int, int]) -> tuple[int, int, str | None]:
    """Returns base address, size and, unless it is known, handle of the allocation that contains a tensor."""
    if tensor.numel() == 0:
        return 0, 0, base64.b64encode(bytes(IPC_HANDLE_BYTES)).decode()
    result, base, size = address_range(driver, tensor.data_ptr())
    if result != 0:
        raise UnsupportedError(f"tensor {name!r}: {error_text(driver, result)}", tensor=name)
    return base, size, None if base in known else _handle(driver, name, base)


def _handle(driver: ctypes.CDLL, name: str, base: int) -> str:
    handle = IpcHandle()
    result = driver.cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(base))
    if result == 0:
        return base64.b64encode(bytes(handle)).decode()
    raise UnsupportedError(
        f"tensor {name!r} is in GPU memory that cannot be shared with other processes ({error_text(driver, result)}): "
        "torch's expandable segments are of this kind. Set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False for the trainer",
        tensor=name,
    )
