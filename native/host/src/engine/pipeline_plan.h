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
  /// Position of the member that caused it, -1 for none.
  std::int64_t member = -1;
  /// That member's own message, if it aborted and this failure only follows from that.
  std::string relayed = {};
};

/// Memory that the buckets of this member come from.
struct PipelineSource {
  const std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  /// Keeps the memory mapped.
  std::shared_ptr<const void> mapping;
};

/// How bytes are stored into the ring: through the caches, bypassing them, or depending on the size of the rings.
enum class RingStores { kByRingSize, kTemporal, kNonTemporal };

/// Everything that one member needs to run a pipeline, as plain data.
struct PipelineSpec : PipelinePlan {
  /// Rings of all members by position, including this member's own.
  std::vector<RingView> rings;
  std::vector<PipelineSource> sources;
  /// The same on all members, and greater than that of every earlier run on any of the rings.
  std::uint64_t generation = 0;
  RingStores stores = RingStores::kByRingSize;
};

/// What the stages need to know about a bucket beyond the plan.
struct PreparedBucket {
  /// Bytes of earlier buckets of the same owner: the offset of this bucket in the owner's `produced` count.
  std::uint64_t produced_before = 0;
  /// Buckets that this member's worker must have released before this bucket is written.
  std::uint64_t released_before = 0;
  /// Buckets that the peers must have received before: they read the bytes that will be overwritten in this member's ring.
  std::uint64_t received_before = 0;
};

inline constexpr std::uint32_t kNoBucket = std::numeric_limits<std::uint32_t>::max();

/// A checked spec with the values derived from it.
struct PreparedPipeline {
  PipelineSpec spec;
  std::vector<PreparedBucket> buckets;
  /// Indices of this member's own buckets and of the others, ascending.
  std::vector<std::uint32_t> own;
  std::vector<std::uint32_t> foreign;
  bool non_temporal = false;
};

/// Checks all bounds of `spec` and sorts each bucket's copies by destination.
/// @throws Error INVALID_ARGUMENT naming the bucket or the copy.
PreparedPipeline PreparePipeline(PipelineSpec spec);

}  // namespace ckpt::host
