#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ckpt/cancellation.h"
#include "handles.h"

namespace ckpt::cuda {

/// An allocation of another process, mapped by its IPC handle for as long as the object lives.
class ForeignMemory {
 public:
  /// @throws Error NATIVE_FAILURE with the driver's text: the handle is not one, or its process is gone.
  ForeignMemory(ContextPtr context, const abi::IpcMemHandle& handle);
  ForeignMemory(const ForeignMemory&) = delete;
  ForeignMemory& operator=(const ForeignMemory&) = delete;
  /// No copy from it may be under way.
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
  /// The allocation that it is read from, by any number: the driver refuses copies that run on into another one, even where the
  /// addresses go on.
  std::size_t source;
};

/// Appends a run, as a longer last one where it continues that on both sides, in the same allocation.
void AppendRead(std::vector<DeviceRead>& reads, const DeviceRead& read);

/// Copies device memory to the host on a stream of its own, in batches where the driver can. Returns the bytes copied. No copy
/// is under way any more when it returns or throws.
/// @throws Error ABORTED by the cancellation, NATIVE_FAILURE with the driver's text.
std::uint64_t ReadDevice(const ContextPtr& context, const std::vector<DeviceRead>& reads, const Cancellation& cancellation,
                         const std::function<void(std::uint64_t)>& progress);

}  // namespace ckpt::cuda
