#pragma once

#include <cstddef>
#include <cstdint>

namespace ckpt {

/// A two-dimensional copy between memories: `rows` runs of `row_bytes`, the pitches apart on each side. The native form of
/// StridedCopy (@ckpt/contract).
struct StridedCopy {
  /// Index of the source memory.
  std::size_t source;
  std::uint64_t source_offset;
  std::uint64_t source_pitch;
  /// Index of the destination memory.
  std::size_t destination;
  std::uint64_t destination_offset;
  std::uint64_t destination_pitch;
  std::uint64_t row_bytes;
  std::uint64_t rows;
};

/// A copy of bytes that are adjacent on both sides. The native form of ContiguousCopy (@ckpt/contract).
struct ContiguousCopy {
  std::size_t source;
  std::uint64_t source_offset;
  std::size_t destination;
  std::uint64_t destination_offset;
  std::uint64_t bytes;
};

}  // namespace ckpt
