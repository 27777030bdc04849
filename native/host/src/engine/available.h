#pragma once

#include <cstdint>

namespace ckpt::host {

/// Whether other processes share the memory: RLIMIT_DATA counts only the process's private memory.
enum class Use { kPrivate, kShared };

/// Bytes of memory that this process can still allocate before the kernel starts to kill processes: the kernel's estimate
/// (MemAvailable), or what the strictest control group leaves, if that is less. 2^64 - 1 if neither is known.
std::uint64_t AvailableBytes();

/// @throws Error OUT_OF_MEMORY if `bytes` are not available, with the file that contains the limit and its numbers. Checking
/// beforehand is the only way to get an error: the kernel grants more address space than it has memory, and kills processes
/// when that memory is then used.
void RequireAvailable(std::uint64_t bytes, Use use);

}  // namespace ckpt::host
