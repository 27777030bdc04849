"""Makes the memory of parameters writable for a rank: shared memory on the CPU, CUDA IPC on a GPU."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch

from ..errors import UnsupportedError
from ..loading.cuda_driver import IpcHandle, address_range, device_uuid, error_text, load_driver
from ..loading.memory_identity import MemoryIdentity
from .shared_memory import move_to_shared


def share(storages: list[torch.UntypedStorage], reserve: int = 0) -> list[dict[str, Any]]:
    """Returns one handle per storage, in the form of docs/worker-protocol.md. Storages on the CPU are moved to shared memory,
    with all tensors over them; all of them, or none.

    :param reserve: bytes of /dev/shm that must remain.
    :raises UnsupportedError: if one cannot be shared (expandable segments, no space in /dev/shm).
    """
    move_to_shared([storage for storage in storages if storage.device.type == "cpu"], reserve)
    known: dict[int, bytes] = {}
    return [_share_cuda(storage, known) if storage.device.type == "cuda" else _share_cpu(storage) for storage in storages]


def _share_cpu(storage: torch.UntypedStorage) -> dict[str, Any]:
    if storage.device.type != "cpu":
        raise UnsupportedError(f"memory on {storage.device} cannot be shared")
    try:
        # As in torch.multiprocessing: the tensors over the storage follow, and it keeps the descriptor open.
        descriptor, size = storage._share_fd_cpu_()
    except RuntimeError as error:
        raise UnsupportedError(f"parameters cannot be moved to shared memory: {error}") from error
    identity = MemoryIdentity.of(descriptor)
    return {
        "kind": "file",
        "path": f"/proc/{os.getpid()}/fd/{descriptor}",
        "offset": 0,
        "bytes": size,
        # Identity with which the rank checks that it opened this file, and not one that a different process has under the same
        # numbers.
        "device": identity.device,
        "inode": identity.inode,
        "size": identity.size,
    }


def _share_cuda(storage: torch.UntypedStorage, known: dict[int, bytes]) -> dict[str, Any]:
    driver = load_driver("sharing parameters")
    with torch.cuda.device(storage.device):
        result, base, _ = address_range(driver, storage.data_ptr())
        if result == 0 and base not in known:
            handle = IpcHandle()
            result = driver.cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(base))
            known[base] = bytes(handle)
    if result != 0:
        text = f"parameters are in GPU memory that cannot be shared ({error_text(driver, result)})"
        raise UnsupportedError(f"{text}: expandable segments and memory pools for sleeping are of this kind")
    return {
        "kind": "cuda",
        "handle": known[base],
        "offset": storage.data_ptr() - base,
        "bytes": storage.nbytes(),
        "deviceUuid": device_uuid(storage.device),
    }
