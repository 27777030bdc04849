#pragma once

#include <napi.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "ckpt/napi/copies.h"
#include "ckpt/pieces.h"

namespace ckpt {

/// Reads ContiguousCopies whose sources are a peer's regions, and whose destinations are local memories.
/// @throws Error INVALID_ARGUMENT naming the field.
inline std::vector<RemoteCopy> ToRemoteCopies(const Napi::Value& value) {
  std::vector<RemoteCopy> copies;
  for (const auto& [region, region_offset, memory, memory_offset, bytes] : ToContiguousCopies(value, "transfers")) {
    // Indices that are too large for any list are refused with the others.
    const auto index = [](std::size_t number) {
      return static_cast<std::uint32_t>(std::min<std::size_t>(number, std::numeric_limits<std::uint32_t>::max()));
    };
    copies.push_back({index(region), region_offset, index(memory), memory_offset, bytes});
  }
  return copies;
}

}  // namespace ckpt
