// One member process of the pipeline checks.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>

#include "check.h"
#include "pipeline.h"

namespace check {

/// Where the bytes of a plan's buckets come from, for all owners, so that every member can verify every bucket.
struct Plan {
  std::uint64_t ring_bytes = 0;
  std::uint64_t chunk_bytes = 0;
  bool serial = false;
  ckpt::cuda::Order order = ckpt::cuda::Order::kOverlapped;
  std::vector<ckpt::PipelineBucket> buckets;
  /// By bucket.
  std::vector<std::vector<ckpt::PipelineCopy>> copies;

  /// The job of one member. `sources` are that member's.
  ckpt::cuda::Job JobOf(std::uint32_t position, std::uint32_t size, std::vector<ckpt::cuda::Job::Source> sources,
                        int timeout_ms) const;
};

/// How a run went.
struct Outcome {
  std::optional<ckpt::Error> failure;
  ckpt::PipelineStats stats;
  double seconds = 0;
  /// From the call of abort (or the run's start) to on_finished.
  double until_finished = 0;
};

/// A member's GPU side: context, streams, communicator.
class Member {
 public:
  Member(std::uint32_t position, std::uint32_t size, int device, Board& board);

  /// Forms a communicator; `id_slot` is a fresh slot of the board.
  void Join(int id_slot, int timeout_ms = 60000);

  /// Runs a job. `worker(bucket, pipeline)` is called for each bucket on a thread of its own, in order, and releases it.
  using Worker = std::function<void(std::uint32_t, ckpt::cuda::Pipeline&)>;
  Outcome Run(const ckpt::cuda::Job& job, const std::shared_ptr<ckpt::cuda::DeviceMemory>& ring, const Worker& worker);

  /// The pipeline under way, for aborts from outside.
  std::shared_ptr<ckpt::cuda::Pipeline> current();

  const std::uint32_t position;
  const std::uint32_t size;
  Board& board;
  ckpt::cuda::ContextPtr context;
  ckpt::WorkerPool pool{"check"};
  std::shared_ptr<ckpt::cuda::Stream> h2d;
  std::shared_ptr<ckpt::cuda::Stream> broadcast;
  std::shared_ptr<ckpt::cuda::Stream> reload;
  std::shared_ptr<ckpt::cuda::Communicator> communicator;

 private:
  std::mutex mutex_;
  std::shared_ptr<ckpt::cuda::Pipeline> current_;
};

int RunRandom(Member& member);
int RunRates(Member& member);
int RunOrders(Member& member);
int RunPins(Member& member);
int RunAborts(Member& member);
int RunFault(Member& member, const std::string& kind);

}  // namespace check
