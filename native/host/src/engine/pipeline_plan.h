#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ckpt/error.h"
#include "pipeline_arrivals.h"
#include "ring.h"

namespace ckpt::host {

/// Why a run did not finish.
struct PipelineFailure {
  const char* code = code::kNativeFailure;
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

/// One bucket of the plan; the same on all members.
struct PipelineBucket {
  std::uint32_t owner = 0;
  std::uint64_t bytes = 0;
  std::uint64_t ring_offset = 0;
  /// Last earlier bucket whose ring bytes this one overwrites, -1 when there is none.
  std::int64_t after = -1;
};

/// One run of bytes from a source into a bucket that this member owns.
struct PipelineCopy {
  std::uint32_t source = 0;
  std::uint64_t source_offset = 0;
  std::uint64_t bucket_offset = 0;
  std::uint64_t bytes = 0;
};

/// How bytes are stored into the ring: through the caches, past them, or whichever suits the size of the rings.
enum class RingStores { kByRingSize, kTemporal, kNonTemporal };

/// Everything one member needs to run a pipeline, as plain data.
struct PipelineSpec {
  std::uint32_t position = 0;
  /// Rings of all members by position, this member's own among them.
  std::vector<RingView> rings;
  std::vector<PipelineSource> sources;
  std::vector<PipelineBucket> buckets;
  std::vector<PipelineCopy> copies;
  /// Copies of bucket b are first_copy[b] … first_copy[b + 1] - 1.
  std::vector<std::uint32_t> first_copy;
  std::uint64_t chunk_bytes = 0;
  /// One bucket at a time, and one stage at a time.
  bool serial = false;
  std::uint64_t timeout_ms = 0;
  /// The same on all members, above that of every run before on any of the rings.
  std::uint64_t generation = 0;
  RingStores stores = RingStores::kByRingSize;
  ArriveIn arrive_in = ArriveIn::kNowhere;
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
