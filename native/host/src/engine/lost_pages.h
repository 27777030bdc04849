#pragma once

#include <atomic>
#include <cstddef>

namespace ckpt::host {

/// Watches a mapped range whose pages can go away under it: somebody truncates the file. A thread that touches such a page gets
/// SIGBUS, which would end the process; for a watched range it gets a page of zeros instead, and the range is lost from then
/// on: whoever used it asks lost() afterwards and fails by name.
class PageWatch {
 public:
  /// Watches nothing.
  PageWatch() = default;
  /// @throws Error OUT_OF_MEMORY when too many ranges are watched.
  PageWatch(const void* start, std::size_t bytes);
  PageWatch(PageWatch&& other) noexcept;
  PageWatch& operator=(PageWatch&& other) noexcept;
  PageWatch(const PageWatch&) = delete;
  PageWatch& operator=(const PageWatch&) = delete;
  ~PageWatch();

  /// Whether a page was gone when it was touched.
  bool lost() const;

 private:
  int slot_ = -1;
};

}  // namespace ckpt::host
