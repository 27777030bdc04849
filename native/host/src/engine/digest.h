#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/worker_pool.h"
#include "mapping.h"

namespace ckpt::host {

/// A byte range of one of several memories.
struct MemoryRange {
  std::size_t memory;
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// The 64-bit digest of docs/worker-protocol.md ("Digest") of one range, on the calling thread.
std::uint64_t DigestBytes(const std::byte* data, std::size_t bytes);

/// The digest of every range, on several threads (also within one range). @throws Error INVALID_ARGUMENT when a range leaves
/// its memory, ABORTED.
std::vector<std::uint64_t> DigestRanges(WorkerPool& pool, unsigned threads,
                                        const std::vector<std::shared_ptr<Mapping>>& memories,
                                        const std::vector<MemoryRange>& ranges, const Cancellation& cancellation);

/// Fills a range with reproducible bytes: little-endian word i, counted from the start of the range, is
/// mix(seed + (i + 1) * 0x9e3779b97f4a7c15) modulo 2^64, with the digest's mix; the last word is cut where the range ends.
/// @throws Error INVALID_ARGUMENT when the range leaves the memory, ABORTED.
void FillRandom(WorkerPool& pool, unsigned threads, Mapping& memory, std::uint64_t offset, std::uint64_t bytes,
                std::uint64_t seed, const Cancellation& cancellation);

}  // namespace ckpt::host
