"""The CUDA driver through ctypes: the few functions for sharing GPU memory between processes."""

from __future__ import annotations

import ctypes
from typing import Final

import torch

from ..errors import UnsupportedError

#: Size of ``CUipcMemHandle`` of cuda.h in bytes.
IPC_HANDLE_BYTES: Final = 64


class IpcHandle(ctypes.Structure):
    """``CUipcMemHandle`` of cuda.h: 64 opaque bytes, passed by value."""

    _fields_ = (("reserved", ctypes.c_byte * IPC_HANDLE_BYTES),)


def load_driver(purpose: str) -> ctypes.CDLL:
    """Loads the driver library.

    :param purpose: feature that needs it, for the error.
    :raises UnsupportedError: if there is none.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UnsupportedError(f"{purpose} needs the CUDA driver: {error}") from error


def error_text(driver: ctypes.CDLL, result: int) -> str:
    """Returns number and text of a CUDA error."""
    text = ctypes.c_char_p()
    driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
    return f"CUDA error {result}: {(text.value or b'unknown').decode()}"


def device_uuid(device: torch.device) -> str:
    """Returns the GPU's own name (``GPU-…``), or an empty string for other devices and for a torch that does not report it."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return "" if uuid is None else f"GPU-{uuid}"


def address_range(driver: ctypes.CDLL, address: int) -> tuple[int, int, int]:
    """Returns (result, base, bytes) of the allocation that contains a device address; a result other than 0 is a CUDA error."""
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    result = driver.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address))
    return result, base.value, size.value
