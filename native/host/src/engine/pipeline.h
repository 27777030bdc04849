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

/** How a run ended: with a failure, or with every bucket delivered and released. */
struct PipelineResult {
  std::optional<PipelineFailure> failure;
  PipelineStats stats;
};

/** Called on the run's own threads; they must not block, and must not destroy the pipeline. */
struct PipelineEvents {
  /** Bucket is complete in this member's ring. In order, never two at a time. */
  std::function<void(std::uint32_t)> onBucket;
  /** The run is over; no call comes after. */
  std::function<void(PipelineResult)> onFinished;
};

/**
 * One member's run of a plan on the host device. Two threads: H2D copies this member's buckets from its sources into its own ring,
 * broadcast copies everybody else's from their rings into its own, close behind their progress. Members find each other's progress
 * in the control pages of the rings; nothing else connects them.
 */
class Pipeline {
 public:
  /** Starts a prepared run: publishes its generation in the own ring, then works. */
  Pipeline(PreparedPipeline prepared, PipelineEvents events);
  /** Aborts what still runs and joins. */
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  /**
   * The engine worker is done with `bucket` and all before it. From one thread at a time. Returns the failure when the bucket was
   * not delivered yet (invalidArgument) or was released before (invalidState); the run goes on. After the end it does nothing.
   */
  std::optional<PipelineFailure> release(std::uint32_t bucket);

  /** Ends the run with `failure`, unless it already ended. Copies under way are finished. */
  void abort(PipelineFailure failure);

 private:
  void runLead();
  void runH2d();
  void runBroadcast();
  bool await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen);
  bool awaitWritable(Stage stage, std::uint32_t bucket);
  bool copyOwn(std::uint32_t bucket);
  bool fetch(std::uint32_t bucket);
  void complete(Stage stage);
  const RingView& ownRing() const noexcept { return prepared_.spec.rings[prepared_.spec.position]; }

  const PreparedPipeline prepared_;
  const PipelineEvents events_;
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> delivered_{0};
  PipelineClock clock_;
  PipelineWaits waits_;
  std::mutex failureMutex_;
  std::optional<PipelineFailure> failure_;
  std::mutex deliveryMutex_;
  /** How many of `own` and `foreign` are complete. */
  std::size_t done_[2] = {0, 0};
  std::thread lead_;
};

}  // namespace ckpt::host
