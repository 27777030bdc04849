#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handles.h"

namespace ckpt::cuda {

/// A range of memory that the device can address.
struct DeviceRange {
  abi::DevicePointer address;
  std::uint64_t bytes;
};

/// `rows` runs of `row_bytes`, their starts `source_pitch` and `destination_pitch` bytes apart. Sources may be registered host
/// memory. Sources and destinations of one list must not overlap.
struct DeviceCopy {
  abi::DevicePointer source;
  abi::DevicePointer destination;
  std::uint64_t rows;
  std::uint64_t row_bytes;
  std::uint64_t source_pitch;
  std::uint64_t destination_pitch;
};

/// Why there are no kernels in this build; empty where there are.
std::string KernelsProblem();

/// The addon's kernels, loaded into one context.
class Kernels {
 public:
  /// @throws Error UNSUPPORTED where the addon was built without nvcc, NATIVE_FAILURE where the image does not load.
  explicit Kernels(ContextPtr context);
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  ~Kernels();

  /// 64-bit digest of each range (docs/worker-protocol.md, "Digest"). Waits for the result. One call at a time works; others
  /// wait.
  std::vector<std::uint64_t> Digest(const std::vector<DeviceRange>& ranges, const Stream& stream) const;

 private:
  friend class CopyList;

  /// Device memory of at least this size that outlives the call: freeing memory would wait for everything on the GPU, a
  /// pipeline under way included. Under the lock.
  DeviceMemory& Scratch(std::size_t bytes) const;
  void Launch(abi::Function function, std::uint64_t tiles, void** parameters, const Stream& stream) const;

  ContextPtr context_;
  abi::Module module_ = nullptr;
  abi::Function digest_ = nullptr;
  abi::Function copy_strided_ = nullptr;
  int multiprocessors_ = 0;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<DeviceMemory> scratch_;
};

/// A list of copies that stays on the device, so that repeating it costs one launch.
class CopyList {
 public:
  CopyList(std::shared_ptr<const Kernels> kernels, const std::vector<DeviceCopy>& copies, const Stream& stream);

  /// Enqueues all copies.
  void Run(const Stream& stream) const;
  /// Bytes that one run moves.
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<const Kernels> kernels_;
  std::unique_ptr<DeviceMemory> jobs_;
  unsigned int count_ = 0;
  std::uint64_t tiles_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace ckpt::cuda
