#pragma once

#include <cstdint>

namespace ckpt::host {

/// Who else sees the memory: RLIMIT_DATA counts only what is the process's own.
enum class Use { kPrivate, kShared };

/// Bytes of memory this process can still have before the kernel starts to kill: the kernel's estimate (MemAvailable), or what
/// the tightest control group leaves where that is less. 2^64 - 1 where neither is known.
std::uint64_t AvailableBytes();

/// @throws Error OUT_OF_MEMORY when `bytes` are not available, with the file that holds the limit and its numbers. Asking
/// beforehand is the only way to get an error: the kernel grants more address space than it has memory, and ends processes when
/// that memory is then used.
void RequireAvailable(std::uint64_t bytes, Use use);

}  // namespace ckpt::host
