#pragma once

#include <atomic>
#include <cstddef>

namespace ckpt::host {

/// Watches a mapped range whose pages can disappear because the file is truncated. A thread that accesses such a page gets
/// SIGBUS, which would end the process; in a watched range it gets a page of zeros instead, and the range is lost from then on:
/// its user checks lost() afterwards and fails with a named error.
class PageWatch {
 public:
  /// Watches nothing.
  PageWatch() = default;
  /// @throws Error OUT_OF_MEMORY if too many ranges are watched.
  PageWatch(const void* start, std::size_t bytes);
  PageWatch(PageWatch&& other) noexcept;
  PageWatch& operator=(PageWatch&& other) noexcept;
  PageWatch(const PageWatch&) = delete;
  PageWatch& operator=(const PageWatch&) = delete;
  ~PageWatch();

  /// Whether a page was missing when it was accessed.
  bool lost() const;

 private:
  int slot_ = -1;
};

}  // namespace ckpt::host
