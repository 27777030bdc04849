#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/worker_pool.h"

namespace ckpt::host {

/// Pieces of work of any length, concatenated so that threads can share them evenly, whether they are few and large or many and
/// small.
class Spans {
 public:
  void Reserve(std::size_t count) { ends_.reserve(count); }
  void Add(std::uint64_t length) { ends_.push_back(total() + length); }
  std::uint64_t total() const { return ends_.empty() ? 0 : ends_.back(); }

  /// Calls body(index, from, to) for each piece that has bytes in [begin, end); from and to count inside the piece.
  template <class Body>
  void ForEach(std::uint64_t begin, std::uint64_t end, Body&& body) const {
    auto piece = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
    for (; piece < ends_.size() && begin < end; piece++) {
      const std::uint64_t start = piece == 0 ? 0 : ends_[piece - 1];
      const std::uint64_t stop = std::min(end, ends_[piece]);
      if (stop > begin) body(piece, begin - start, stop - start);
      begin = std::max(begin, stop);
    }
  }

  /// ForEach over all bytes, in slices that up to `threads` threads take in turn. Slices end at multiples of 64 bytes of the
  /// total and have at least 256 KiB and at most `largest` bytes.
  template <class Body>
  void Parallel(WorkerPool& pool, unsigned threads, std::uint64_t largest, const Cancellation& cancellation,
                const Body& body) const {
    const std::uint64_t even = total() / (std::uint64_t{4} * std::max(threads, 1u));
    const std::uint64_t slice = std::clamp<std::uint64_t>((even + 63) / 64 * 64, kSmallest, largest);
    ParallelFor::Run(pool, threads, static_cast<std::size_t>((total() + slice - 1) / slice), cancellation,
                     [&](std::size_t index) { ForEach(index * slice, std::min(total(), (index + 1) * slice), body); });
  }

 private:
  static constexpr std::uint64_t kSmallest = std::uint64_t{256} << 10;
  std::vector<std::uint64_t> ends_;
};

/// Whether bytes offset … offset + length - 1 are within `size` bytes.
inline bool Inside(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

}  // namespace ckpt::host
