#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/worker_pool.h"
#include "mapping.h"

namespace ckpt::host {

/// A byte range in one of several memories.
struct MemoryRange {
  std::size_t memory;
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// The 64-bit digest of docs/worker-protocol.md ("Digest") of one range, on the calling thread.
std::uint64_t DigestBytes(const std::byte* data, std::size_t bytes);

/// The digest of every range, on several threads (also within one range). @throws Error INVALID_ARGUMENT if a range exceeds its
/// memory, ABORTED.
std::vector<std::uint64_t> DigestRanges(WorkerPool& pool, unsigned threads,
                                        const std::vector<std::shared_ptr<Mapping>>& memories,
                                        const std::vector<MemoryRange>& ranges, const Cancellation& cancellation);

/// Digests of ranges that are filled piece by piece, in any order and on several threads. Each piece is summed as soon as it
/// arrives, while it is in the processor's caches, so that the digests need no second pass over memory.
class DigestsOnArrival {
 public:
  /// @throws Error INVALID_ARGUMENT if a range exceeds its memory or overlaps the next one.
  DigestsOnArrival(const std::vector<std::shared_ptr<Mapping>>& memories, const std::vector<MemoryRange>& ranges);

  /// Bytes offset … offset + bytes - 1 of a memory have arrived; every byte of a range may arrive only once.
  void Arrived(std::size_t memory, std::uint64_t offset, std::uint64_t bytes);

  /// The digests, after everything has arrived. @throws Error INVALID_ARGUMENT for an incomplete range.
  std::vector<std::uint64_t> Finish();

 private:
  struct Word {
    std::size_t range;
    std::uint64_t index;
  };
  void Add(std::size_t range, std::uint64_t from, std::uint64_t to);

  const std::vector<std::shared_ptr<Mapping>>& memories_;
  const std::vector<MemoryRange>& ranges_;
  /// Non-empty ranges, by memory and offset.
  std::vector<std::size_t> order_;
  std::vector<std::atomic<std::uint64_t>> sums_;
  std::vector<std::atomic<std::uint64_t>> arrived_;
  std::mutex mutex_;
  /// Words that a piece contains only in part: they are summed at the end.
  std::vector<Word> cut_;
};

/// `rows` runs of `row_bytes`, `pitch` apart in one memory, which are `position_pitch` apart in a tensor, starting at
/// `position`. Their terms are added to sum `output`. `unit` (1, 2, 4 or 8) divides row_bytes, position and position_pitch.
struct SummedRows {
  std::size_t output;
  std::size_t memory;
  std::uint64_t offset;
  std::uint64_t pitch;
  std::uint64_t row_bytes;
  std::uint64_t rows;
  std::uint64_t position;
  std::uint64_t position_pitch;
  std::uint64_t unit;
};

/// Sums of docs/worker-protocol.md ("Sums of routes"), one for each number below `outputs`: sums of the digest's terms of those
/// rows, wherever they are stored, computed as if they were at their position in the tensor. Uses several threads. @throws
/// Error INVALID_ARGUMENT if a row exceeds its memory or has no output, ABORTED.
std::vector<std::uint64_t> SumRows(WorkerPool& pool, unsigned threads, const std::vector<std::shared_ptr<Mapping>>& memories,
                                   const std::vector<SummedRows>& rows, std::size_t outputs, const Cancellation& cancellation);

/// Fills a range with reproducible bytes: little-endian word i, counted from the start of the range, is mix(seed + (i + 1) *
/// 0x9e3779b97f4a7c15) modulo 2^64, with the digest's mix; the last word is cut off at the end of the range.
/// @throws Error INVALID_ARGUMENT if the range exceeds the memory, ABORTED.
void FillRandom(WorkerPool& pool, unsigned threads, Mapping& memory, std::uint64_t offset, std::uint64_t bytes,
                std::uint64_t seed, const Cancellation& cancellation);

}  // namespace ckpt::host
