#pragma once

#include <cstdint>

namespace ckpt::host {

/// Bytes of memory this process can still have before the kernel starts to kill: the kernel's estimate (MemAvailable), or what
/// the control group leaves where that is less. 2^64 - 1 where neither is known.
std::uint64_t AvailableBytes();

/// @throws Error OUT_OF_MEMORY when `bytes` are not available. Asking beforehand is the only way to get an error: the kernel
/// grants more address space than it has memory, and ends processes when that memory is then used.
void RequireAvailable(std::uint64_t bytes);

}  // namespace ckpt::host
