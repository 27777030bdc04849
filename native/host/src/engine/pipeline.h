#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "pipeline_plan.h"
#include "pipeline_stats.h"
#include "pipeline_wait.h"

namespace ckpt::host {

/// How a run ended: with a failure, or with every bucket delivered and released.
struct PipelineResult {
  std::optional<PipelineFailure> failure;
  PipelineStats stats;
};

/// Called on the run's own threads; they must not block, and must not destroy the pipeline.
struct PipelineEvents {
  /// Bucket is complete in this member's ring. In order, never two at a time.
  std::function<void(std::uint32_t)> on_bucket;
  /// The run is over; no call comes after.
  std::function<void(PipelineResult)> on_finished;
  /// The ring bytes of an own bucket are free; in order, and only where bytes arrive in the ring. May come beside on_bucket.
  std::function<void(std::uint32_t)> on_writable = nullptr;
};

/// One member's run of a plan on the host device. Two threads: H2D copies this member's buckets from its sources into its own
/// ring, broadcast copies everybody else's from their rings into its own, close behind their progress. Members find each
/// other's progress in the control pages of the rings; nothing else connects them.
class Pipeline {
 public:
  /// Starts a prepared run: publishes its generation in the own ring, then works.
  Pipeline(PreparedPipeline prepared, PipelineEvents events);
  /// Aborts what still runs and joins.
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  /// The engine worker is done with `bucket` and all before it. From one thread at a time. Does nothing once the run is over.
  /// @throws Error INVALID_ARGUMENT when the bucket was not delivered yet, INVALID_STATE when it was released before; the run
  /// goes on.
  void Release(std::uint32_t bucket);

  /// The bytes of an own bucket have come where ArriveIn says. Does nothing once the run is over.
  /// @throws Error INVALID_ARGUMENT for a bucket of another member, or where nothing arrives; INVALID_STATE when it came
  /// before.
  void Arrived(std::uint32_t bucket);

  /// Ends the run with `failure`, unless it already ended. Copies under way are finished.
  void Abort(PipelineFailure failure);

 private:
  void RunLead();
  void RunH2d();
  void RunWritable();
  void RunBroadcast();
  void AwaitEnd();
  bool Await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen);
  bool AwaitWritable(Stage stage, std::uint32_t bucket);
  bool AwaitArrival(std::uint32_t bucket);
  bool CopyOwn(std::uint32_t bucket);
  bool TakeFromRing(std::uint32_t bucket);
  bool Fetch(std::uint32_t bucket);
  std::uint64_t CopyPieces(std::byte* target, const std::byte* source, std::uint64_t bytes) const;
  void Complete(Stage stage);
  const RingView& OwnRing() const noexcept { return prepared_.spec.rings[prepared_.spec.position]; }

  const PreparedPipeline prepared_;
  const PipelineEvents events_;
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> delivered_{0};
  PipelineClock clock_;
  PipelineWaits waits_;
  Arrivals arrivals_;
  std::mutex failure_mutex_;
  std::optional<PipelineFailure> failure_;
  std::mutex delivery_mutex_;
  /// How many of `own` and `foreign` are complete.
  std::size_t done_[2] = {0, 0};
  std::thread lead_;
};

}  // namespace ckpt::host
