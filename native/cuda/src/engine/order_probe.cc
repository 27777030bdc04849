#include "order_probe.h"

#include <algorithm>
#include <thread>

namespace ckpt::cuda {
namespace {

constexpr auto kPause = std::chrono::microseconds(20);
constexpr auto kCancellationCheck = std::chrono::milliseconds(5);
constexpr auto kDrainPatience = std::chrono::seconds(10);

/// Returns after all members have called it: a broadcast of one byte from each.
void Meet(const PipelineParts& parts, std::uint32_t size, std::chrono::milliseconds timeout, const Cancellation& cancellation) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  const auto give_up = [&] { return cancellation.cancelled() || std::chrono::steady_clock::now() >= deadline; };
  std::vector<InPlaceBroadcast> bytes;
  for (std::uint32_t root = 0; root < size; root++) bytes.push_back({parts.ring->pointer() + root, 1, root});
  bool met = parts.communicator->Broadcast(bytes, *parts.broadcast, give_up);
  while (met && !parts.broadcast->Idle()) {
    met = !give_up();
    std::this_thread::sleep_for(kPause);
  }
  if (met) return;
  parts.communicator->Abort();
  for (int i = 0; i < 500 && !parts.broadcast->Idle(); i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  cancellation.Check();
  throw Error(code::kTimeout,
              "another member did not come to measure orders within " + std::to_string(timeout.count()) + " ms");
}

/// State shared by a run's threads and the thread that waits for it.
struct Waiting {
  std::mutex mutex;
  std::condition_variable wake;
  std::weak_ptr<Pipeline> pipeline;
  std::optional<Error> failure;
  PipelineStats stats;
  bool drained = false;
};

PipelineStats RunToEnd(const PipelineParts& parts, Schedule schedule, const Cancellation& cancellation) {
  const auto waiting = std::make_shared<Waiting>();
  PipelineEvents events;
  events.on_bucket = [waiting](std::uint32_t bucket) {
    std::shared_ptr<Pipeline> pipeline;
    {
      const std::lock_guard<std::mutex> lock(waiting->mutex);
      pipeline = waiting->pipeline.lock();
    }
    if (pipeline != nullptr) pipeline->Release(bucket);
  };
  events.on_finished = [waiting](std::optional<Error> failure, PipelineStats stats) {
    const std::lock_guard<std::mutex> lock(waiting->mutex);
    waiting->failure = std::move(failure);
    waiting->stats = std::move(stats);
  };
  events.on_drained = [waiting] {
    const std::lock_guard<std::mutex> lock(waiting->mutex);
    waiting->drained = true;
    waiting->wake.notify_all();
  };
  std::unique_lock<std::mutex> lock(waiting->mutex);
  const std::shared_ptr<Pipeline> pipeline = Pipeline::Start(parts, std::move(schedule), std::move(events));
  waiting->pipeline = pipeline;
  bool told = false;
  auto since = std::chrono::steady_clock::time_point::max();
  while (!waiting->drained) {
    waiting->wake.wait_for(lock, kCancellationCheck);
    if (cancellation.cancelled() && !std::exchange(told, true)) {
      since = std::chrono::steady_clock::now();
      lock.unlock();
      pipeline->Abort(Error(code::kAborted, "measuring orders was aborted"));
      lock.lock();
    }
    if (told && std::chrono::steady_clock::now() - since > kDrainPatience) break;
  }
  if (waiting->failure) throw *waiting->failure;
  cancellation.Check();
  return std::move(waiting->stats);
}

}  // namespace

std::vector<OrderFigures> MeasureOrders(const PipelineParts& parts, const Schedule& schedule,
                                        const std::vector<OrderCandidate>& candidates, const Cancellation& cancellation) {
  const Job& job = schedule.job();
  if (job.size < 2 || parts.communicator == nullptr || job.ring_bytes < job.size) {
    throw Error(code::kInvalidArgument, "there is no order to choose for one member").WithField("size");
  }
  parts.context->MakeCurrent();
  std::vector<OrderFigures> figures;
  for (const OrderCandidate& candidate : candidates) {
    Job part = Beginning(job, candidate.bytes);
    part.order = candidate.order;
    part.chunk_bytes = candidate.chunk_bytes;
    Schedule shortened(std::move(part));
    Meet(parts, job.size, std::chrono::milliseconds(job.timeout_ms), cancellation);
    const PipelineStats stats = RunToEnd(parts, std::move(shortened), cancellation);
    OrderFigures figure{0, stats.h2d_ms, stats.broadcast_ms};
    for (const StageSpan& span : stats.spans) figure.whole = std::max(figure.whole, span.end);
    figures.push_back(figure);
  }
  return figures;
}

}  // namespace ckpt::cuda
