#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ckpt/cancellation.h"
#include "handles.h"

namespace ckpt::cuda {

/// An allocation of another process, mapped by its IPC handle during the lifetime of the object.
class ForeignMemory {
 public:
  /// @throws Error NATIVE_FAILURE with the driver's text: the handle is invalid, or its process has ended.
  ForeignMemory(ContextPtr context, const abi::IpcMemHandle& handle);
  ForeignMemory(const ForeignMemory&) = delete;
  ForeignMemory& operator=(const ForeignMemory&) = delete;
  /// No copy from it may be in progress.
  ~ForeignMemory();

  abi::DevicePointer pointer() const { return pointer_; }
  /// Size of the whole allocation.
  std::size_t bytes() const { return bytes_; }

 private:
  ContextPtr context_;
  abi::DevicePointer pointer_ = 0;
  std::size_t bytes_ = 0;
};

/// One run of bytes from device memory to host memory. It must not cross a slice of a HostRegistration.
struct DeviceRead {
  abi::DevicePointer from;
  std::byte* to;
  std::size_t bytes;
  /// Whether the host memory is page-locked.
  bool pinned;
  /// The allocation that it is read from, as an arbitrary number: the driver refuses copies that continue into another one,
  /// even if the addresses are contiguous.
  std::size_t source;
};

/// Appends a run, or extends the last one if it continues that on both sides in the same allocation.
void AppendRead(std::vector<DeviceRead>& reads, const DeviceRead& read);

/// Copies device memory to the host on its own stream, in batches if the driver supports them. Returns the bytes copied. When
/// it returns or throws, no copy is in progress any more.
/// @throws Error ABORTED by the cancellation, NATIVE_FAILURE with the driver's text.
std::uint64_t ReadDevice(const ContextPtr& context, const std::vector<DeviceRead>& reads, const Cancellation& cancellation,
                         const std::function<void(std::uint64_t)>& progress);

}  // namespace ckpt::cuda
