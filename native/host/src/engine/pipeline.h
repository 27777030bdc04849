#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "ckpt/pipeline.h"
#include "pipeline_plan.h"
#include "pipeline_stats.h"
#include "pipeline_wait.h"

namespace ckpt::host {

/// One member's run of a plan on the host device. Two threads: H2D copies this member's buckets from its sources into its own
/// ring, broadcast copies everybody else's from their rings into its own, close behind their progress. Members find each
/// other's progress in the control pages of the rings; nothing else connects them.
class Pipeline final : public PipelineRun {
 public:
  /// Starts a prepared run: publishes its generation in the own ring, then works.
  Pipeline(PreparedPipeline prepared, PipelineEvents events);
  /// Aborts what still runs and joins.
  ~Pipeline() override;

  /// @throws Error INVALID_ARGUMENT when the bucket was not delivered yet, INVALID_STATE when it was released before.
  void Release(std::uint32_t bucket) override;
  /// @throws Error INVALID_ARGUMENT for a bucket of a different member, or where nothing arrives; INVALID_STATE when it came
  /// before.
  void Arrived(std::uint32_t bucket) override;
  /// Copies under way are finished.
  void Abort(Error failure) override;
  /// Joins the run's threads, which ends soon after an abort: `limit` is not needed.
  bool Shutdown(std::chrono::milliseconds limit) override;

 private:
  void Fail(PipelineFailure failure);
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
