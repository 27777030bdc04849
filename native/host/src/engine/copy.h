#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/copies.h"
#include "ckpt/worker_pool.h"
#include "mapping.h"

namespace ckpt::host {

/// `count` runs of `bytes`, separated by the pitch of each side.
struct Rows {
  std::size_t bytes;
  std::size_t count;
  std::size_t source_pitch;
  std::size_t destination_pitch;
};

/// A method of copying bytes that do not overlap, for one instruction set.
struct CopyLoop {
  const char* instructions;
  void (*copy)(std::byte* destination, const std::byte* source, std::size_t bytes);
  void (*rows)(std::byte* destination, const std::byte* source, const Rows& rows);
};

/// Loops that this CPU can run, slowest first.
std::vector<CopyLoop> SupportedCopyLoops();

/// Copies bytes that do not overlap; large runs use the widest non-temporal stores of this CPU. The bytes are visible to every
/// thread that synchronises with this one afterwards (the stores are fenced before it returns).
void CopyBytes(std::byte* destination, const std::byte* source, std::size_t bytes);
/// The same for rows.
void CopyRows(std::byte* destination, const std::byte* source, const Rows& rows);

/// Runs all copies on several threads, in no particular order; the destinations of one list must not overlap. All are checked
/// before the first byte is moved. Returns the bytes moved.
/// @throws Error INVALID_ARGUMENT if a copy exceeds its memory or its rows overlap in the destination, ABORTED.
std::uint64_t CopyStrided(WorkerPool& pool, unsigned threads, const std::vector<std::shared_ptr<Mapping>>& memories,
                          const std::vector<StridedCopy>& copies, const Cancellation& cancellation);

}  // namespace ckpt::host
