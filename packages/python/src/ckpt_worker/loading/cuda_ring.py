"""CUDA IPC through the driver (cuIpcOpenMemHandle), and a tensor over the memory by ``__cuda_array_interface__``."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import torch

from ..errors import RingError, UnsupportedError
from ..protocol.messages import CudaRing
from .cuda_driver import IpcHandle, address_range, device_uuid, error_text, load_driver

_LAZY_ENABLE_PEER_ACCESS: Final = 1


class _DeviceBytes:
    """``size`` bytes at a device address, in the form that torch.as_tensor accepts without a copy."""

    def __init__(self, address: int, size: int) -> None:
        # https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def _check(driver: ctypes.CDLL, what: str, result: int) -> None:
    if result == 0:
        return
    raise RingError(f"{what} failed with {error_text(driver, result)}")


class CudaMapping:
    """A ring in GPU memory of a different process. Close it only when no kernel reads it any more."""

    def __init__(self, ring: CudaRing, device: torch.device) -> None:
        driver = load_driver("a CUDA ring")
        if device.type != "cuda":
            raise UnsupportedError(f"a CUDA ring cannot be used by an engine on {device}")
        own = device_uuid(device)
        if own and ring.device_uuid and own != ring.device_uuid:
            raise RingError(f"the ring is on {ring.device_uuid}, but the engine on {own}")
        self._device = device
        self._driver: ctypes.CDLL | None = None
        self._data: torch.Tensor | None = None
        if ring.size == 0:
            self._data = torch.empty(0, dtype=torch.uint8, device=device)
            return
        address = ctypes.c_uint64()
        with torch.cuda.device(device):
            torch.empty(1, device=device)  # makes the device's primary context current on this thread
            handle = IpcHandle.from_buffer_copy(ring.handle)
            result = driver.cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, ctypes.c_uint(_LAZY_ENABLE_PEER_ACCESS))
            _check(driver, "cuIpcOpenMemHandle", result)
        self._driver, self._address = driver, address.value
        try:
            self._check_extent(ring)
            memory = _DeviceBytes(self._address + ring.offset, ring.size)
            self._data = torch.as_tensor(memory, device=device)
        except BaseException:
            self.close()
            raise

    def _check_extent(self, ring: CudaRing) -> None:
        """The handle refers to a whole allocation, and the ring must be inside it."""
        driver = self._driver
        assert driver is not None
        with torch.cuda.device(self._device):
            result, base, size = address_range(driver, self._address)
        _check(driver, "cuMemGetAddressRange", result)
        if self._address + ring.offset + ring.size > base + size:
            raise RingError(
                f"the handle's memory has {size} bytes, less than the announced {ring.size} at offset {ring.offset}"
            )

    @property
    def data(self) -> torch.Tensor:
        """Returns all bytes of the ring as flat uint8 on the device."""
        if self._data is None:
            raise RingError("the CUDA ring is closed")
        return self._data

    def close(self) -> None:
        """Releases the mapping; calling it again does nothing."""
        self._data = None
        driver, self._driver = self._driver, None
        if driver is None:
            return
        with torch.cuda.device(self._device):
            _check(driver, "cuIpcCloseMemHandle", driver.cuIpcCloseMemHandle(ctypes.c_uint64(self._address)))
