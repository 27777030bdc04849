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

/// `rows` runs of `row_bytes`, which start `source_pitch` and `destination_pitch` bytes apart. Sources may be registered host
/// memory. Sources and destinations of one list must not overlap.
struct DeviceCopy {
  abi::DevicePointer source;
  abi::DevicePointer destination;
  std::uint64_t rows;
  std::uint64_t row_bytes;
  std::uint64_t source_pitch;
  std::uint64_t destination_pitch;
};

/// Why this build has no kernels; empty if it has.
std::string KernelsProblem();

/// The addon's kernels, loaded into one context.
class Kernels {
 public:
  /// @throws Error UNSUPPORTED if the addon was built without nvcc, NATIVE_FAILURE if the image cannot be loaded.
  explicit Kernels(ContextPtr context);
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;
  ~Kernels();

  /// 64-bit digest of each range (docs/worker-protocol.md, "Digest"). Waits for the result. Only one call works at a time;
  /// others wait.
  std::vector<std::uint64_t> Digest(const std::vector<DeviceRange>& ranges, const Stream& stream) const;

 private:
  friend class CopyList;

  /// Device memory of at least this size that is kept after the call: freeing memory would wait for everything on the GPU,
  /// including a running pipeline. Called with the lock held.
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

/// A list of copies that is kept on the device, so that a repetition needs only one launch.
class CopyList {
 public:
  CopyList(std::shared_ptr<const Kernels> kernels, const std::vector<DeviceCopy>& copies, const Stream& stream);

  /// Enqueues all copies.
  void Run(const Stream& stream) const;
  /// Bytes that each run moves.
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<const Kernels> kernels_;
  std::unique_ptr<DeviceMemory> jobs_;
  unsigned int count_ = 0;
  std::uint64_t tiles_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace ckpt::cuda
