#pragma once

#include <cstddef>
#include <vector>

#include "ckpt/worker_pool.h"
#include "handles.h"

namespace ckpt::cuda {

/// Host memory that is page-locked and mapped for every GPU of the process, slice by slice: several threads share the work, and
/// a slice can be pinned while later ones are still being filled. A copy must not cross a slice boundary: for the driver each
/// slice is a separate allocation.
class HostRegistration {
 public:
  static constexpr std::size_t kDefaultSliceBytes = std::size_t{256} << 20;

  /// Describes `bytes` bytes at `address`; nothing is pinned yet.
  /// @throws Error INVALID_ARGUMENT for an empty memory.
  HostRegistration(ContextPtr context, void* address, std::size_t bytes, std::size_t slice_bytes = kDefaultSliceBytes);
  HostRegistration(const HostRegistration&) = delete;
  HostRegistration& operator=(const HostRegistration&) = delete;
  /// Unregisters. No copy from the memory may be in progress.
  ~HostRegistration();

  /// Pins slices `first` … `last` - 1 that are not pinned yet. Calls for different slices may overlap.
  /// @throws Error INVALID_ARGUMENT for slices that do not exist, OUT_OF_MEMORY, NATIVE_FAILURE with the driver's text; slices
  /// that
  ///   were pinned remain pinned.
  void Pin(WorkerPool& pool, unsigned threads, std::size_t first, std::size_t last);
  std::size_t slices() const { return registered_.size(); }
  /// Whether every slice is pinned. Must not be called while Pin runs.
  bool pinned() const;

  const std::byte* data() const { return address_; }
  std::size_t bytes() const { return bytes_; }
  /// Slices start at multiples of this from data().
  std::size_t slice_bytes() const { return slice_bytes_; }

 private:
  void Unregister();

  ContextPtr context_;
  std::byte* address_;
  std::size_t bytes_;
  std::size_t slice_bytes_;
  /// By slice: whether it is currently registered.
  std::vector<char> registered_;
};

}  // namespace ckpt::cuda
