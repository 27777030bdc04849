#pragma once

#include <vector>

#include "ckpt/cancellation.h"
#include "pipeline.h"

namespace ckpt::cuda {

/// A way to run a job.
struct OrderCandidate {
  Order order;
  std::uint64_t chunk_bytes;
  /// How much of the job is run: as much as gives an owner this many bytes.
  std::uint64_t bytes;
};

/// Times of a candidate on this member, in milliseconds measured on the GPU.
struct OrderFigures {
  double whole = 0;
  double h2d = 0;
  double broadcast = 0;
};

/// Runs the beginning of a job once for each candidate, from the job's own sources through its ring, whose contents are lost;
/// nothing is delivered. All members do so together, with the same candidates; each run begins when all members have reached
/// it.
/// @throws Error as Pipeline does (the communicator is then aborted), ABORTED.
std::vector<OrderFigures> MeasureOrders(const PipelineParts& parts, const Schedule& schedule,
                                        const std::vector<OrderCandidate>& candidates, const Cancellation& cancellation);

}  // namespace ckpt::cuda
