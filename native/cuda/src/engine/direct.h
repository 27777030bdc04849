#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ckpt/cancellation.h"
#include "copy_batch.h"
#include "kernels.h"

namespace ckpt::cuda {

/// What a direct job moved, and when; times in milliseconds since it began.
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

/// Whether the copy engine's two-dimensional copies take the rows of a copy faster than the kernel, and can.
bool SuitsEngine(const DeviceCopy& copy);

/// Copies out of page-locked host memory into memory of this GPU, prepared once and run again and again. Long runs go to the
/// copy engine in batches, and rows that do not begin with a line of memory by two-dimensional copies; the others are gathered
/// by a kernel that reads the host's memory itself.
class DirectJob {
 public:
  struct Options {
    /// Host memory is registered in slices of this size from an address of its own: a batched copy must not cross one. See
    /// `slices`.
    std::size_t slice_bytes = 0;
    /// Runs of at least this many bytes go to the copy engine.
    std::uint64_t engine_bytes = 256 << 10;
    /// The kernel works beside the copy engine, else after it.
    bool together = true;
  };
  /// Host memory that copies read from.
  struct Source {
    std::uint64_t address;
    std::uint64_t bytes;
  };

  /// `forwards` go from device memory to device memory, of this GPU or one that it reaches, after all `copies`.
  /// @throws Error UNSUPPORTED without kernels, INVALID_ARGUMENT for rows that overlap.
  DirectJob(ContextPtr context, std::shared_ptr<const Kernels> kernels, const std::vector<Source>& sources,
            const std::vector<DeviceCopy>& copies, const std::vector<DeviceCopy>& forwards, const Options& options);

  /// Runs all copies. None is under way any more when it returns or throws.
  /// @throws Error ABORTED by the cancellation, NATIVE_FAILURE with the driver's text.
  DirectStats Run(const Cancellation& cancellation) const;

 private:
  /// Bytes from a host address to the end of its slice.
  std::uint64_t SliceLeft(std::uint64_t address) const;
  CopyBatch& OpenBatch();
  void AddRun(std::uint64_t from, std::uint64_t to, std::uint64_t bytes);
  /// Rows that lie in two slices go to `gather`.
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
