#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ckpt/error.h"
#include "ckpt/pipeline.h"
#include "pipeline_arrivals.h"
#include "ring.h"

namespace ckpt::host {

/// Why a run did not finish.
struct PipelineFailure {
  std::string code = code::kNativeFailure;
  std::string message;
  /// Position of the member that is to blame, -1 when none is.
  std::int64_t member = -1;
  /// What that member said, where it gave up and this failure only follows.
  std::string relayed = {};
};

/// Memory that the buckets of this member come from.
struct PipelineSource {
  const std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  /// Keeps the memory mapped.
  std::shared_ptr<const void> mapping;
};

/// How bytes are stored into the ring: through the caches, past them, or whichever suits the size of the rings.
enum class RingStores { kByRingSize, kTemporal, kNonTemporal };

/// Everything one member needs to run a pipeline, as plain data.
struct PipelineSpec : PipelinePlan {
  /// Rings of all members by position, this member's own among them.
  std::vector<RingView> rings;
  std::vector<PipelineSource> sources;
  /// The same on all members, above that of every run before on any of the rings.
  std::uint64_t generation = 0;
  RingStores stores = RingStores::kByRingSize;
};

/// What the stages need to know of a bucket beyond the plan.
struct PreparedBucket {
  /// Bytes of earlier buckets of the same owner: where in its `produced` count this bucket starts.
  std::uint64_t produced_before = 0;
  /// Buckets that this member's worker must have released before this bucket is written.
  std::uint64_t released_before = 0;
  /// Buckets that the peers must have received before: they read the bytes about to be overwritten from this member's ring.
  std::uint64_t received_before = 0;
};

inline constexpr std::uint32_t kNoBucket = std::numeric_limits<std::uint32_t>::max();

/// A checked spec with what follows from it.
struct PreparedPipeline {
  PipelineSpec spec;
  std::vector<PreparedBucket> buckets;
  /// Indices of this member's own buckets and of the others, ascending.
  std::vector<std::uint32_t> own;
  std::vector<std::uint32_t> foreign;
  bool non_temporal = false;
};

/// Checks every bound of `spec` and sorts each bucket's copies by where they go.
/// @throws Error INVALID_ARGUMENT naming the bucket or the copy.
PreparedPipeline PreparePipeline(PipelineSpec spec);

}  // namespace ckpt::host
