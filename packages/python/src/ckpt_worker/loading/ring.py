"""Maps the ring that buckets pass through: POSIX shared memory, or GPU memory by CUDA IPC."""

from __future__ import annotations

import gc
import mmap
import os
import warnings
from typing import Protocol

import torch

from ..errors import RingError
from ..protocol.messages import CudaRing, ShmRing
from .memory_identity import MemoryIdentity, open_shared


class Ring(Protocol):
    """A mapped ring. No tensor made from ``data`` may be used after :meth:`close`."""

    @property
    def data(self) -> torch.Tensor:
        """Returns all bytes of the ring as flat uint8, without a copy; must not be written to. Raises RingError once closed."""

    def close(self) -> None:
        """Unmaps the ring; calling it again does nothing. Raises RingError if tensors over the ring are still alive."""


class _ShmMapping:
    def __init__(self, ring: ShmRing) -> None:
        self._name = ring.name
        self._data: torch.Tensor | None = None
        self._map: mmap.mmap | None = None
        descriptor = _open_shm(ring)
        try:
            if ring.size == 0:
                self._data = torch.empty(0, dtype=torch.uint8)
                return
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._map = mmap.mmap(descriptor, ring.offset + ring.size, flags=flags, prot=mmap.PROT_READ)
        except OSError as error:
            raise RingError(f"cannot map ring {ring.name!r}: {error}") from error
        finally:
            os.close(descriptor)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*buffer is not writable.*")
            # Over a memoryview, which the tensor keeps: while any tensor is alive, the map cannot be closed.
            self._data = torch.frombuffer(memoryview(self._map), dtype=torch.uint8, offset=ring.offset, count=ring.size)

    @property
    def data(self) -> torch.Tensor:
        if self._data is None:
            raise RingError(f"ring {self._name!r} is closed")
        return self._data

    def close(self) -> None:
        self._data = None
        mapping, self._map = self._map, None
        if mapping is None:
            return
        try:
            mapping.close()
        except BufferError:
            gc.collect()
            try:
                mapping.close()
            except BufferError as error:
                # Dropping the last reference unmaps it as soon as the tensors are gone.
                raise RingError(f"ring {self._name!r}: the loader kept a tensor that is in the ring") from error


def _open_shm(ring: ShmRing) -> int:
    """Returns a read-only descriptor of the ring's file, after checking that it is the rank's and large enough."""
    offered = None
    if ring.device is not None and ring.inode is not None and ring.whole is not None:
        offered = MemoryIdentity(ring.device, ring.inode, ring.whole)
    descriptor = open_shared(ring.name, offered, f"ring {ring.name!r}")
    size = os.fstat(descriptor).st_size
    if ring.offset + ring.size > size:
        os.close(descriptor)
        raise RingError(f"ring {ring.name!r} has {size} bytes, less than the announced {ring.size} at offset {ring.offset}")
    return descriptor


def open_ring(ring: ShmRing | CudaRing, device: torch.device) -> Ring:
    """Maps a ring.

    :param device: device of the engine's parameters; a CUDA ring must be on this GPU.
    :raises RingError: if there is no such memory, or it does not match the handle.
    :raises UnsupportedError: for a CUDA ring without CUDA.
    """
    if isinstance(ring, ShmRing):
        return _ShmMapping(ring)
    from .cuda_ring import CudaMapping

    return CudaMapping(ring, device)
