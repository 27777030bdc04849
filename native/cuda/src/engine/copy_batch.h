#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "driver.h"
#include "handles.h"
#include "kernels.h"

namespace ckpt::cuda {

/// Copies of at least this size are passed to the driver in one call. Smaller ones get one call each, because
/// cuMemcpyBatchAsync of CUDA 13.0 does not copy them safely: of many pieces of up to 20 kB, immediately followed by a kernel
/// launch on another stream, one arrived containing that launch's commands, about once in ten runs of `cuda_check random`
/// (H200, driver 580.159).
constexpr std::uint64_t kLeastBatchedBytes = std::uint64_t{128} << 10;

/// Copies between pinned host memory and a GPU that are passed to the driver together.
class CopyBatch {
 public:
  enum class Direction { kToDevice, kToHost };

  explicit CopyBatch(Direction direction) : direction_(direction) {}

  /// Both for device addresses and for host memory addresses.
  void Add(abi::DevicePointer to, abi::DevicePointer from, std::uint64_t bytes);

  /// Rows from host memory, in one call. Pitches below 2 GiB.
  void AddRows(const DeviceCopy& copy);

  std::uint64_t bytes() const { return total_; }
  std::size_t count() const { return to_.size() + rows_.size(); }
  bool empty() const { return count() == 0; }

  /// Enqueues the copies on `stream`, in no particular order. The context must be current. If `batched` is false, each copy
  /// gets its own call, as host memory that is not pinned requires. @throws Error NATIVE_FAILURE with the driver's text.
  void Enqueue(const Stream& stream, bool batched = true) const;

 private:
  bool EnqueueTogether(const std::vector<std::size_t>& which, const Stream& stream) const;
  void EnqueueOne(std::size_t index, const Stream& stream) const;
  static void EnqueueRows(const DeviceCopy& copy, const Stream& stream);

  Direction direction_;
  std::vector<abi::DevicePointer> to_, from_;
  std::vector<std::size_t> bytes_;
  std::vector<DeviceCopy> rows_;
  std::uint64_t total_ = 0;
};

}  // namespace ckpt::cuda
