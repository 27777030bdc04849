#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ckpt/cancellation.h"
#include "copy_batch.h"
#include "kernels.h"

namespace ckpt::cuda {

/// What a direct job moved, and when; times in milliseconds since its start.
struct DirectStats {
  struct Span {
    int stage;  ///< 0: host to device, 1: forwarding
    std::uint32_t index;
    double begin, end;
  };
  double h2d_ms = 0;
  double forward_ms = 0;
  std::uint64_t h2d_bytes = 0;
  std::uint64_t forward_bytes = 0;
  std::vector<Span> spans;
};

/// Whether the copy engine supports the rows of a copy as two-dimensional copies and is faster than the kernel for them.
bool SuitsEngine(const DeviceCopy& copy);

/// Copies from page-locked host memory to memory of this GPU, prepared once and run repeatedly. Long runs use the copy engine
/// in batches, and rows that do not begin at a memory line use two-dimensional copies; the others are gathered by a kernel that
/// reads the host's memory itself.
class DirectJob {
 public:
  struct Options {
    /// Host memory is registered in slices of this size from its own start address: a batched copy must not cross a slice
    /// boundary. See `slices`.
    std::size_t slice_bytes = 0;
    /// Runs of at least this many bytes use the copy engine.
    std::uint64_t engine_bytes = 256 << 10;
    /// The kernel runs at the same time as the copy engine, otherwise after it.
    bool together = true;
  };
  /// Host memory that copies read from.
  struct Source {
    std::uint64_t address;
    std::uint64_t bytes;
  };

  /// `forwards` copy from device memory to device memory, of this GPU or one that it can access, after all `copies`.
  /// @throws Error UNSUPPORTED without kernels, INVALID_ARGUMENT for overlapping rows.
  DirectJob(ContextPtr context, std::shared_ptr<const Kernels> kernels, const std::vector<Source>& sources,
            const std::vector<DeviceCopy>& copies, const std::vector<DeviceCopy>& forwards, const Options& options);

  /// Runs all copies. When it returns or throws, none is in progress any more.
  /// @throws Error ABORTED by the cancellation, NATIVE_FAILURE with the driver's text.
  DirectStats Run(const Cancellation& cancellation) const;

 private:
  /// Bytes from a host address to the end of its slice.
  std::uint64_t SliceLeft(std::uint64_t address) const;
  CopyBatch& OpenBatch();
  void AddRun(std::uint64_t from, std::uint64_t to, std::uint64_t bytes);
  /// Rows that are in two slices are added to `gather`.
  void AddRows(DeviceCopy copy, std::vector<DeviceCopy>& gather);

  ContextPtr context_;
  Options options_;
  std::vector<Source> sources_;
  std::vector<CopyBatch> batches_;
  std::vector<std::unique_ptr<CopyList>> gathers_;
  std::vector<std::unique_ptr<CopyList>> forwards_;
  Stream engine_, kernel_;
};

}  // namespace ckpt::cuda
