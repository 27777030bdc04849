"""What stands in for CUDA where there is none, so that checkpoint-engine's own worker function runs unchanged.

Of torch, `torch.cuda.is_available` and the calls that wait for a GPU or tidy up after it are replaced, and the one C function that
opens shared CUDA memory: `_new_shared_cuda` maps POSIX shared memory instead, by the name that lies where the IPC handle would. It
checks its arguments as torch's own does, and counts down the reference counter when the storage goes (torch/csrc/StorageSharing.cpp,
aten/src/ATen/MapAllocator.h). Everything above it is torch's and checkpoint-engine's own code.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from typing import Any

import torch

_COUNTER_FILE_BYTES = 64 + 8 * 10_000


def install() -> None:
    """Replaces those parts of torch in this process."""

    def nothing(*_: Any) -> None:
        return None

    setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "ipc_collect", "empty_cache", "_lazy_init"):
        setattr(torch.cuda, name, nothing)
    setattr(torch.UntypedStorage, "_new_shared_cuda", staticmethod(_new_shared_cuda))


def _new_shared_cuda(
    device: int,
    handle: bytes,
    size: int,
    offset: int,
    counter: bytes,
    counter_offset: int,
    event: bytes,
    event_sync_required: bool,
) -> torch.UntypedStorage:
    if not (
        all(isinstance(value, int) for value in (device, size, offset, counter_offset))
        and all(isinstance(value, bytes) for value in (handle, counter, event))
        and isinstance(event_sync_required, bool)
    ):
        raise TypeError("_new_shared in CUDA mode: invalid arguments")
    if len(handle) != 64 or event_sync_required:
        raise ValueError("the stand-in knows plain memory handles without an event only")
    memory = _map("/" + handle.rstrip(b"\0").decode(), offset + size)
    storage = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset).untyped_storage()
    weakref.finalize(storage, _count_down, counter.decode(), counter_offset)
    return storage


def _map(name: str, size: int) -> mmap.mmap:
    descriptor = os.open("/dev/shm" + name, os.O_RDWR)
    try:
        if os.fstat(descriptor).st_size < size:
            raise RuntimeError(f"{name} is smaller than {size} bytes")
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _count_down(name: str, index: int) -> None:
    with _map(name, _COUNTER_FILE_BYTES) as file:
        at = 64 + 8 * index
        struct.pack_into("<q", file, at, struct.unpack_from("<q", file, at)[0] - 1)
