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

/// One member's run of a plan on the host device. It has two threads: H2D copies this member's buckets from its sources into
/// its own ring; broadcast copies all other buckets from their rings into its own, following their progress closely. Members
/// read each other's progress from the control pages of the rings; they have no other connection.
class Pipeline final : public PipelineRun {
 public:
  /// Starts a prepared run: publishes its generation in its own ring, then runs.
  Pipeline(PreparedPipeline prepared, PipelineEvents events);
  /// Aborts what is still running and joins the threads.
  ~Pipeline() override;

  /// @throws Error INVALID_ARGUMENT if the bucket was not delivered yet, INVALID_STATE if it was already released.
  void Release(std::uint32_t bucket) override;
  /// @throws Error INVALID_ARGUMENT for a bucket of another member, or if nothing arrives; INVALID_STATE if it has already
  /// arrived.
  void Arrived(std::uint32_t bucket) override;
  /// Copies that have started are finished.
  void Abort(Error failure) override;
  /// Joins the run's threads, which end soon after an abort: `limit` is not needed.
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
  /// Number of complete buckets in `own` and in `foreign`.
  std::size_t done_[2] = {0, 0};
  std::thread lead_;
};

}  // namespace ckpt::host
