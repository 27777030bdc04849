#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "ckpt/error.h"
#include "ckpt/pipeline.h"
#include "communicator.h"
#include "handles.h"
#include "pipeline_stats.h"
#include "schedule.h"

namespace ckpt::cuda {

/// Objects that a pipeline uses, and holds until its last copy has ended.
struct PipelineParts {
  ContextPtr context;
  std::shared_ptr<const DeviceMemory> ring;
  std::shared_ptr<const Stream> h2d;
  std::shared_ptr<const Stream> broadcast;
  /// Null if there is only one member.
  std::shared_ptr<Communicator> communicator;
};

/// Runs a schedule on one GPU, with two threads and two streams. The first thread enqueues host-to-device copies as far ahead
/// as released ring space, the job's order and the limits below allow, and broadcasts in the one order that all members share.
/// A member that may not receive yet delays its part, and the others wait on their GPUs. The second thread watches events,
/// delivers buckets, enforces the deadline, and ends the run.
///
/// After a failure the communicator is aborted; neither it nor the pipeline can be used again.
class Pipeline final : public PipelineRun, public std::enable_shared_from_this<Pipeline> {
 public:
  static std::shared_ptr<Pipeline> Start(PipelineParts parts, Schedule schedule, PipelineEvents events);

  void Release(std::uint32_t bucket) override;
  void Arrived(std::uint32_t bucket) override;
  void Abort(Error failure) override;
  bool Shutdown(std::chrono::milliseconds limit) override;

 private:
  using Clock = std::chrono::steady_clock;

  /// Work on a stream between two events.
  struct InFlight {
    /// Index into the own chunks or the steps.
    std::uint32_t index;
    Event begin;
    Event end;
  };

  Pipeline(PipelineParts parts, Schedule schedule, PipelineEvents events);

  // The enqueueing thread.
  void Enqueue();
  bool MayCopy() const;
  bool MayBroadcast() const;
  bool Alternating() const { return schedule_.job().order == Order::kAlternating && !alone_; }
  void EnqueueCopy();
  void EnqueueBroadcast();
  void CopyPieces(const std::vector<Piece>& pieces) const;
  Event TakeEvent();
  /// Everything enqueued on `stream` from now on starts after the event.
  static void WaitFor(const Event& event, const Stream& stream);

  // The watching thread.
  void Watch();
  bool Collect(std::vector<std::uint32_t>& delivered);
  void Retire(std::deque<InFlight>& queue, Stage stage);
  void CompleteChunk(const Chunk& chunk, std::vector<std::uint32_t>& delivered);
  void Finish();
  void Drain();
  void MarkDrained();
  Error TimedOut() const;
  void FailLocked(Error failure);

  const PipelineParts parts_;
  const Schedule schedule_;
  const bool alone_;
  Event start_;
  Clock::time_point started_;

  mutable std::mutex mutex_;
  std::condition_variable enqueue_wake_;
  std::condition_variable watch_wake_;
  PipelineEvents events_;
  std::optional<Error> failure_;
  std::int64_t released_ = -1;
  std::uint32_t delivered_ = 0;
  std::vector<char> complete_;
  std::vector<char> arrived_;
  std::deque<InFlight> copies_;
  std::deque<InFlight> broadcasts_;
  std::vector<Event> free_events_;
  /// Next own chunk and step to enqueue; number of own chunks used by the steps enqueued so far.
  std::uint32_t next_copy_ = 0;
  std::uint32_t next_step_ = 0;
  std::uint32_t used_copies_ = 0;
  std::uint64_t copying_bytes_ = 0;
  Clock::time_point progress_;
  bool enqueue_over_ = false;
  bool drained_ = false;
  PipelineStats stats_;
};

}  // namespace ckpt::cuda
