#pragma once

#include <cstddef>
#include <vector>

#include "ckpt/worker_pool.h"
#include "handles.h"

namespace ckpt::cuda {

/// Host memory that is page-locked and mapped for every GPU of the process, slice by slice, so that several threads share the
/// work. A copy must not cross a slice: the driver knows each as an allocation of its own.
class HostRegistration {
 public:
  static constexpr std::size_t kDefaultSliceBytes = std::size_t{1} << 30;

  /// Registers `bytes` bytes at `address`. All or nothing.
  /// @throws Error OUT_OF_MEMORY, NATIVE_FAILURE with the driver's text.
  HostRegistration(ContextPtr context, WorkerPool& pool, void* address, std::size_t bytes, unsigned threads,
                   std::size_t slice_bytes = kDefaultSliceBytes);
  HostRegistration(const HostRegistration&) = delete;
  HostRegistration& operator=(const HostRegistration&) = delete;
  /// Unregisters. No copy from the memory may be under way.
  ~HostRegistration();

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
  /// By slice: whether it is registered now.
  std::vector<char> registered_;
};

}  // namespace ckpt::cuda
