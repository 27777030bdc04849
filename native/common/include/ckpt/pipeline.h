#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "ckpt/error.h"

namespace ckpt {

/// One bucket of a plan; the same on all members.
struct PipelineBucket {
  /// Position of the member that owns the bytes.
  std::uint32_t owner = 0;
  std::uint64_t bytes = 0;
  std::uint64_t ring_offset = 0;
  /// Last earlier bucket whose ring bytes this one overwrites, -1 if there is none.
  std::int32_t after = -1;
};

/// One run of bytes from a source into a bucket that this member owns.
struct PipelineCopy {
  std::uint32_t source = 0;
  std::uint64_t source_offset = 0;
  std::uint64_t bucket_offset = 0;
  std::uint64_t bytes = 0;
};

/// Place where the bytes of own buckets arrive during a run.
enum class ArriveIn {
  /// Nowhere: the sources hold them from the beginning.
  kNowhere,
  /// In the sources, from which the copies read them.
  kSources,
  /// In the ring itself; there are no copies.
  kRing,
};

/// Part of a member's job that is the same on every kind of device: the columns of PipelineJob (@ckpt/contract).
struct PipelinePlan {
  /// Position of this member in its group.
  std::uint32_t position = 0;
  std::vector<PipelineBucket> buckets;
  std::vector<PipelineCopy> copies;
  /// Copies of bucket b are first_copy[b] … first_copy[b + 1] - 1.
  std::vector<std::uint32_t> first_copy;
  std::uint64_t chunk_bytes = 0;
  /// One bucket at a time, and one stage at a time.
  bool serial = false;
  /// Maximum time without progress, in milliseconds.
  std::uint64_t timeout_ms = 0;
  ArriveIn arrive_in = ArriveIn::kNowhere;
};

enum class Stage : std::uint8_t { kH2d = 0, kBroadcast = 1 };

/// Time that a stage spent on a bucket, or on a part of it, in milliseconds since the run's start.
struct StageSpan {
  Stage stage;
  std::uint32_t bucket;
  double start;
  double end;
};

/// Times of a run's stages, in milliseconds.
struct PipelineStats {
  double h2d_ms = 0;
  double broadcast_ms = 0;
  double idle_ms = 0;
  std::uint64_t h2d_bytes = 0;
  std::uint64_t broadcast_bytes = 0;
  std::vector<StageSpan> spans;
};

/// Called on the run's own threads; they must not block, and must not destroy the run.
struct PipelineEvents {
  /// Every byte of the bucket is in this member's ring. In order, never two at a time.
  std::function<void(std::uint32_t bucket)> on_bucket;
  /// The run is over: without a failure, every bucket was delivered and released. Called once.
  std::function<void(std::optional<Error> failure, PipelineStats stats)> on_finished;
  /// The ring bytes of an own bucket are free; in order, and only if bytes arrive in the ring. May overlap with on_bucket.
  std::function<void(std::uint32_t bucket)> on_writable = nullptr;
  /// No copy touches ring or sources any more. Called once, after on_finished; no call follows it.
  std::function<void()> on_drained = nullptr;
};

/// A member's run of a plan, on any device.
class PipelineRun {
 public:
  PipelineRun() = default;
  PipelineRun(const PipelineRun&) = delete;
  PipelineRun& operator=(const PipelineRun&) = delete;
  virtual ~PipelineRun() = default;

  /// Marks `bucket` and all earlier ones as processed by the engine worker. From one thread at a time. Does nothing after the
  /// run's end.
  /// @throws Error INVALID_ARGUMENT if the bucket was not delivered yet; the run continues.
  virtual void Release(std::uint32_t bucket) = 0;

  /// Marks the bytes of an own bucket as arrived at the place in `arrive_in`. Does nothing after the run's end.
  /// @throws Error INVALID_ARGUMENT for a bucket of a different member, or if no bytes arrive.
  virtual void Arrived(std::uint32_t bucket) = 0;

  /// Ends the run with `failure`, unless it is over.
  virtual void Abort(Error failure) = 0;

  /// Aborts, and waits until no copy is in flight, at most `limit`. No event follows. Returns true if the copies have ended.
  virtual bool Shutdown(std::chrono::milliseconds limit) = 0;
};

}  // namespace ckpt
