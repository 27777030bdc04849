"""CUDA IPC through the driver (cuIpcOpenMemHandle), and a tensor over the memory by ``__cuda_array_interface__``."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import torch

from .errors import RingError, UnsupportedError
from .protocol import CUDA_HANDLE_BYTES, CudaRing

_LAZY_ENABLE_PEER_ACCESS: Final = 1


class _IpcHandle(ctypes.Structure):
    """``CUipcMemHandle`` of cuda.h: 64 opaque bytes, passed by value."""

    _fields_ = (("reserved", ctypes.c_byte * CUDA_HANDLE_BYTES),)


class _DeviceBytes:
    """``size`` bytes at a device address, in the form that torch.as_tensor takes without a copy."""

    def __init__(self, address: int, size: int) -> None:
        # https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def device_uuid(device: torch.device) -> str:
    """The GPU's own name (``GPU-…``), or an empty string for other devices and for a torch that does not tell it."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return "" if uuid is None else f"GPU-{uuid}"


def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UnsupportedError(f"a CUDA ring needs the CUDA driver: {error}") from error


def _check(driver: ctypes.CDLL, what: str, result: int) -> None:
    if result == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
    raise RingError(f"{what} failed with CUDA error {result}: {(text.value or b'unknown').decode()}")


class CudaMapping:
    """A ring in GPU memory that another process allocated. Close it only when no kernel reads it any more."""

    def __init__(self, ring: CudaRing, device: torch.device) -> None:
        driver = _driver()
        if device.type != "cuda":
            raise UnsupportedError(f"a CUDA ring cannot be used by an engine on {device}")
        own = device_uuid(device)
        if own and ring.device_uuid and own != ring.device_uuid:
            raise RingError(f"the ring lies on {ring.device_uuid}, the engine on {own}")
        self._device = device
        self._driver: ctypes.CDLL | None = None
        self._data: torch.Tensor | None = None
        if ring.size == 0:
            self._data = torch.empty(0, dtype=torch.uint8, device=device)
            return
        address = ctypes.c_uint64()
        with torch.cuda.device(device):
            torch.empty(1, device=device)  # makes the device's primary context current on this thread
            handle = _IpcHandle.from_buffer_copy(ring.handle)
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
        """The handle stands for a whole allocation: the ring must lie inside it."""
        driver, base, size = self._driver, ctypes.c_uint64(), ctypes.c_size_t()
        assert driver is not None
        with torch.cuda.device(self._device):
            result = driver.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(self._address))
        _check(driver, "cuMemGetAddressRange", result)
        if self._address + ring.offset + ring.size > base.value + size.value:
            raise RingError(
                f"the handle's memory has {size.value} bytes, not the {ring.size} at offset {ring.offset} announced"
            )

    @property
    def data(self) -> torch.Tensor:
        """All bytes of the ring as flat uint8 on the device."""
        if self._data is None:
            raise RingError("the CUDA ring is closed")
        return self._data

    def close(self) -> None:
        """Gives the mapping back; calling it again does nothing."""
        self._data = None
        driver, self._driver = self._driver, None
        if driver is None:
            return
        with torch.cuda.device(self._device):
            _check(driver, "cuIpcCloseMemHandle", driver.cuIpcCloseMemHandle(ctypes.c_uint64(self._address)))
