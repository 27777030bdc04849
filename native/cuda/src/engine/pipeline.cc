#include "pipeline.h"

#include <pthread.h>

#include <algorithm>
#include <thread>

#include "ckpt/affinity.h"

namespace ckpt::cuda {
namespace {

constexpr auto kWatchPause = std::chrono::microseconds(25);
constexpr auto kIdlePause = std::chrono::milliseconds(5);
/// After an abort: how long the enqueueing thread and the streams may take before the caller is informed anyway.
constexpr auto kStopEnqueueing = std::chrono::milliseconds(300);
constexpr auto kDrainPatience = std::chrono::milliseconds(600);

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

std::shared_ptr<Pipeline> Pipeline::Start(PipelineParts parts, Schedule schedule, PipelineEvents events) {
  if (schedule.job().ring_bytes > parts.ring->bytes()) {
    throw Error(code::kInvalidArgument, "the plan's ring is larger than the ring").WithField("ring");
  }
  if (schedule.job().size > 1 && parts.communicator == nullptr) {
    throw Error(code::kInvalidArgument, "several members need a communicator").WithField("size");
  }
  std::shared_ptr<Pipeline> self(new Pipeline(std::move(parts), std::move(schedule), std::move(events)));
  std::thread enqueuer([self] {
    BindThread(self->parts_.context->near_cpus());
    self->Enqueue();
  });
  pthread_setname_np(enqueuer.native_handle(), "ckpt-cuda-queue");
  enqueuer.detach();
  std::thread watcher([self] {
    BindThread(self->parts_.context->near_cpus());
    self->Watch();
  });
  pthread_setname_np(watcher.native_handle(), "ckpt-cuda-watch");
  watcher.detach();
  return self;
}

Pipeline::Pipeline(PipelineParts parts, Schedule schedule, PipelineEvents events)
    : parts_(std::move(parts)),
      schedule_(std::move(schedule)),
      alone_(schedule_.job().size == 1),
      start_(parts_.context),
      started_(Clock::now()),
      events_(std::move(events)),
      complete_(schedule_.job().buckets.size(), 0),
      arrived_(schedule_.job().buckets.size(), schedule_.job().arrive_in == ArriveIn::kNowhere ? 1 : 0),
      progress_(started_) {
  start_.Record(*parts_.h2d);
  // Times are relative to this, so nothing may begin or end before it.
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().streamWaitEvent(parts_.broadcast->get(), start_.get(), 0), "cuStreamWaitEvent");
}

void Pipeline::Release(std::uint32_t bucket) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bucket >= delivered_) {
      if (failure_) return;
      throw Error(code::kInvalidArgument, "bucket " + std::to_string(bucket) + " was released before it was delivered")
          .WithField("bucket");
    }
    released_ = std::max<std::int64_t>(released_, bucket);
    progress_ = Clock::now();
  }
  enqueue_wake_.notify_one();
  watch_wake_.notify_one();
}

void Pipeline::Arrived(std::uint32_t bucket) {
  const Job& job = schedule_.job();
  if (job.arrive_in == ArriveIn::kNowhere || bucket >= job.buckets.size() || job.buckets[bucket].owner != job.position) {
    throw Error(code::kInvalidArgument, "bucket " + std::to_string(bucket) + " is not one that arrives here")
        .WithField("bucket");
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    arrived_[bucket] = 1;
    progress_ = Clock::now();
  }
  enqueue_wake_.notify_one();
}

void Pipeline::Abort(Error failure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  FailLocked(std::move(failure));
}

bool Pipeline::Shutdown(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  events_ = {};
  FailLocked(Error(code::kAborted, "the process is ending"));
  return watch_wake_.wait_for(lock, limit, [this] { return drained_; });
}

void Pipeline::FailLocked(Error failure) {
  if (!failure_) failure_ = std::move(failure);
  enqueue_wake_.notify_all();
  watch_wake_.notify_all();
}

void Pipeline::Watch() {
  try {
    parts_.context->MakeCurrent();
    while (true) {
      std::vector<std::uint32_t> delivered;
      std::unique_lock<std::mutex> lock(mutex_);
      if (failure_) break;
      const bool progress = Collect(delivered);
      const auto now = Clock::now();
      if (progress) progress_ = now;
      if (!delivered.empty()) {
        const auto on_bucket = events_.on_bucket;
        lock.unlock();
        for (const std::uint32_t bucket : delivered) {
          if (on_bucket) on_bucket(bucket);
        }
        enqueue_wake_.notify_one();
        continue;
      }
      if (released_ + 1 == static_cast<std::int64_t>(complete_.size())) {
        lock.unlock();
        return Finish();
      }
      if (progress) {
        enqueue_wake_.notify_one();
        continue;
      }
      const auto patience = std::chrono::milliseconds(schedule_.job().timeout_ms);
      if (now - progress_ > patience) {
        FailLocked(TimedOut());
        break;
      }
      if (copies_.empty() && broadcasts_.empty()) {
        watch_wake_.wait_for(lock, kIdlePause);
      } else {
        watch_wake_.wait_for(lock, kWatchPause);
      }
    }
  } catch (const Error& error) {
    Abort(error);
  } catch (const std::exception& error) {
    Abort(Error(code::kNativeFailure, error.what()));
  }
  Drain();
}

/// Records everything that has ended since. Called with the lock held.
bool Pipeline::Collect(std::vector<std::uint32_t>& delivered) {
  bool progress = false;
  while (!copies_.empty() && copies_.front().end.Done()) {
    const Chunk& chunk = schedule_.chunks()[schedule_.own()[copies_.front().index]];
    copying_bytes_ -= chunk.bytes;
    stats_.h2d_bytes += chunk.bytes;
    Retire(copies_, Stage::kH2d);
    if (alone_) CompleteChunk(chunk, delivered);
    progress = true;
  }
  while (!broadcasts_.empty() && broadcasts_.front().end.Done()) {
    const Step& step = schedule_.steps()[broadcasts_.front().index];
    Retire(broadcasts_, Stage::kBroadcast);
    for (std::uint32_t i = 0; i < step.chunk_count; i++) {
      const Chunk& chunk = schedule_.chunks()[step.first_chunk + i];
      stats_.broadcast_bytes += chunk.bytes;
      CompleteChunk(chunk, delivered);
    }
    progress = true;
  }
  return progress;
}

void Pipeline::Retire(std::deque<InFlight>& queue, Stage stage) {
  InFlight work = std::move(queue.front());
  queue.pop_front();
  const double start = work.begin.MillisecondsSince(start_);
  const double end = work.end.MillisecondsSince(start_);
  if (stage == Stage::kH2d) {
    stats_.spans.push_back({stage, schedule_.chunks()[schedule_.own()[work.index]].bucket, start, end});
  } else {
    const Step& step = schedule_.steps()[work.index];
    for (std::uint32_t i = 0; i < step.chunk_count; i++) {
      stats_.spans.push_back({stage, schedule_.chunks()[step.first_chunk + i].bucket, start, end});
    }
  }
  free_events_.push_back(std::move(work.begin));
  free_events_.push_back(std::move(work.end));
}

void Pipeline::CompleteChunk(const Chunk& chunk, std::vector<std::uint32_t>& delivered) {
  if (chunk.last) complete_[chunk.bucket] = 1;
  while (delivered_ < complete_.size() && complete_[delivered_]) delivered.push_back(delivered_++);
}

/// The error of a pipeline without progress: what it waits for, and who is responsible for it.
Error Pipeline::TimedOut() const {
  const std::string since = "no progress for " + std::to_string(schedule_.job().timeout_ms) + " ms: ";
  const auto name = [](std::int64_t bucket) { return "bucket " + std::to_string(bucket); };
  if (!copies_.empty()) {
    const std::uint32_t bucket = schedule_.chunks()[schedule_.own()[copies_.front().index]].bucket;
    return Error(code::kTimeout, since + "the copy of " + name(bucket) + " to the GPU does not end");
  }
  if (!broadcasts_.empty()) {
    const Step& step = schedule_.steps()[broadcasts_.front().index];
    std::string text;
    for (std::uint32_t i = 0; i < step.chunk_count; i++) {
      const Chunk& chunk = schedule_.chunks()[step.first_chunk + i];
      text += (i == 0 ? "" : ", ") + name(chunk.bucket) + " of member " + std::to_string(chunk.owner);
    }
    const std::string message = since + "the broadcast of " + text + " does not end, so another member does not take part";
    if (schedule_.job().size != 2) return Error(code::kTimeout, message);
    return Error(code::kTimeout, message).WithPeer("member " + std::to_string(1 - schedule_.job().position));
  }
  std::int64_t wanted = static_cast<std::int64_t>(complete_.size()) - 1;
  if (!alone_ && next_step_ < schedule_.steps().size()) {
    wanted = schedule_.steps()[next_step_].after;
  } else if (next_copy_ < schedule_.own().size()) {
    wanted = schedule_.chunks()[schedule_.own()[next_copy_]].after;
  }
  if (next_copy_ < schedule_.own().size() && !arrived_[schedule_.chunks()[schedule_.own()[next_copy_]].bucket]) {
    return Error(code::kTimeout, since + name(schedule_.chunks()[schedule_.own()[next_copy_]].bucket) + " does not arrive");
  }
  if (wanted > released_) {
    return Error(code::kTimeout, since + "the engine worker has not released " + name(wanted)).WithPeer("engine worker");
  }
  return Error(code::kTimeout, since + "NCCL has not taken the broadcast of step " + std::to_string(next_step_));
}

void Pipeline::Finish() {
  const double whole = Milliseconds(Clock::now() - started_);
  std::unique_lock<std::mutex> lock(mutex_);
  Summarize(stats_, whole);
  const PipelineEvents events = events_;
  PipelineStats stats = std::move(stats_);
  lock.unlock();
  if (events.on_finished) events.on_finished(std::nullopt, std::move(stats));
  if (events.on_drained) events.on_drained();
  MarkDrained();
}

/// After the last callback, so that nothing is called back after someone has waited for it.
void Pipeline::MarkDrained() {
  const std::lock_guard<std::mutex> lock(mutex_);
  drained_ = true;
  enqueue_wake_.notify_all();
  watch_wake_.notify_all();
}

void Pipeline::Drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  watch_wake_.wait_for(lock, kStopEnqueueing, [this] { return enqueue_over_; });
  lock.unlock();
  if (parts_.communicator != nullptr) parts_.communicator->Abort();
  const auto patience = Clock::now() + kDrainPatience;
  bool told = false;
  const auto tell = [&] {
    if (std::exchange(told, true)) return;
    lock.lock();
    const auto on_finished = events_.on_finished;
    const Error failure = *failure_;
    Summarize(stats_, Milliseconds(Clock::now() - started_));
    PipelineStats stats = stats_;
    lock.unlock();
    if (on_finished) on_finished(failure, std::move(stats));
  };
  try {
    while (true) {
      if (parts_.h2d->Idle() && parts_.broadcast->Idle()) {
        lock.lock();
        if (enqueue_over_) break;
        lock.unlock();
      }
      if (Clock::now() > patience) tell();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    lock.unlock();
  } catch (const Error&) {
    // The context has failed: nothing runs in it any more.
    if (lock.owns_lock()) lock.unlock();
  }
  tell();
  lock.lock();
  const auto on_drained = events_.on_drained;
  lock.unlock();
  if (on_drained) on_drained();
  MarkDrained();
}

}  // namespace ckpt::cuda
