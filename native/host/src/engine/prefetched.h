#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace ckpt::host {

/// Calls `use` for pieces of at most `step` bytes while prefetching the lines after each: ciphers are faster than uncached
/// memory.
template <class Use>
void ForEachPrefetched(const std::uint8_t* begin, std::size_t bytes, std::size_t step, std::size_t ahead, const Use& use) {
  constexpr std::size_t kLineBytes = 64;
  for (std::size_t at = 0, next = 0; at < bytes; at = next) {
    next = std::min(bytes, at + step);
    for (auto line = next; line < std::min(bytes, next + ahead); line += kLineBytes) __builtin_prefetch(begin + line);
    use(begin + at, next - at);
  }
}

}  // namespace ckpt::host
