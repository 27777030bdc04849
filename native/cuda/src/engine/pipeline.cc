#include "pipeline.h"

#include <pthread.h>

#include <algorithm>
#include <thread>

namespace ckpt::cuda {
namespace {

/// How far host-to-device copies run ahead of their completion: enough to keep the link busy, little enough to stop soon.
constexpr std::uint64_t kCopyAheadBytes = std::uint64_t{256} << 20;
constexpr std::uint32_t kCopiesAhead = 2;
/// Broadcasts enqueued and not over.
constexpr std::size_t kStepsAhead = 4;
constexpr auto kFailureCheck = std::chrono::milliseconds(10);
constexpr auto kWatchPause = std::chrono::microseconds(25);
constexpr auto kIdlePause = std::chrono::milliseconds(5);
/// After an abort: how long the enqueueing thread and the streams may take before the caller is told anyway.
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
  std::thread enqueuer([self] { self->Enqueue(); });
  pthread_setname_np(enqueuer.native_handle(), "ckpt-cuda-queue");
  enqueuer.detach();
  std::thread watcher([self] { self->Watch(); });
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
      progress_(started_) {
  start_.Record(*parts_.h2d);
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

// ---- enqueueing

bool Pipeline::MayCopy() const {
  if (next_copy_ >= schedule_.own().size()) return false;
  const Chunk& chunk = schedule_.chunks()[schedule_.own()[next_copy_]];
  if (chunk.after > released_) return false;
  return copies_.size() < kCopiesAhead || copying_bytes_ + chunk.bytes <= kCopyAheadBytes;
}

bool Pipeline::MayBroadcast() const {
  if (alone_ || next_step_ >= schedule_.steps().size()) return false;
  const Step& step = schedule_.steps()[next_step_];
  if (step.after > released_ || broadcasts_.size() >= kStepsAhead) return false;
  for (std::uint32_t i = 0; i < step.chunk_count; i++) {
    if (schedule_.chunks()[step.first_chunk + i].owner == schedule_.job().position) return used_copies_ < next_copy_;
  }
  return true;
}

void Pipeline::Enqueue() {
  try {
    parts_.context->MakeCurrent();
    auto checked = Clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!failure_ && !drained_) {
      const bool copy = MayCopy();
      const bool broadcast = MayBroadcast();
      lock.unlock();
      if (copy) EnqueueCopy();
      if (broadcast) EnqueueBroadcast();
      if (!alone_ && Clock::now() - checked > kFailureCheck) {
        parts_.communicator->CheckAsync();
        checked = Clock::now();
      }
      lock.lock();
      if (alone_ && next_copy_ == schedule_.own().size()) break;
      if (!copy && !broadcast && !failure_ && !drained_) enqueue_wake_.wait_for(lock, kFailureCheck);
    }
  } catch (const Error& error) {
    Abort(error);
  } catch (const std::exception& error) {
    Abort(Error(code::kNativeFailure, error.what()));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  enqueue_over_ = true;
  watch_wake_.notify_all();
}

Event Pipeline::TakeEvent() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_events_.empty()) return Event(parts_.context);
  Event event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

void Pipeline::EnqueueCopy() {
  const Chunk& chunk = schedule_.chunks()[schedule_.own()[next_copy_]];
  InFlight work{next_copy_, TakeEvent(), TakeEvent()};
  work.begin.Record(*parts_.h2d);
  CopyPieces(schedule_.PiecesOf(chunk));
  work.end.Record(*parts_.h2d);
  const std::lock_guard<std::mutex> lock(mutex_);
  copies_.push_back(std::move(work));
  copying_bytes_ += chunk.bytes;
  next_copy_++;
  watch_wake_.notify_one();
}

void Pipeline::CopyPieces(const std::vector<Piece>& pieces) const {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  const abi::DevicePointer ring = parts_.ring->pointer();
  if (pieces.size() >= 2 && api.memcpyBatchAsync != nullptr) {
    std::vector<abi::DevicePointer> to, from;
    std::vector<std::size_t> bytes;
    for (const Piece& piece : pieces) {
      to.push_back(ring + piece.offset);
      from.push_back(reinterpret_cast<abi::DevicePointer>(piece.from));
      bytes.push_back(piece.bytes);
    }
    abi::MemcpyAttributes attributes{};
    attributes.srcAccessOrder = abi::kSrcAccessOrderStream;
    std::size_t first = 0;
    driver.Check(api.memcpyBatchAsync(to.data(), from.data(), bytes.data(), bytes.size(), &attributes, &first, 1, parts_.h2d->get()),
                 "cuMemcpyBatchAsync");
    return;
  }
  for (const Piece& piece : pieces) {
    driver.Check(api.memcpyHtoDAsync(ring + piece.offset, piece.from, piece.bytes, parts_.h2d->get()), "cuMemcpyHtoDAsync");
  }
}

void Pipeline::EnqueueBroadcast() {
  const Driver& driver = Driver::Get();
  const Step& step = schedule_.steps()[next_step_];
  std::vector<InPlaceBroadcast> broadcasts;
  bool own = false;
  for (std::uint32_t i = 0; i < step.chunk_count; i++) {
    const Chunk& chunk = schedule_.chunks()[step.first_chunk + i];
    own = own || chunk.owner == schedule_.job().position;
    if (chunk.bytes > 0) broadcasts.push_back({parts_.ring->pointer() + chunk.offset, chunk.bytes, chunk.owner});
  }
  InFlight work{next_step_, TakeEvent(), TakeEvent()};
  if (own) {
    // Under the lock: the watching thread takes the event back once it has seen the copy end.
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const InFlight& copy : copies_) {
      if (copy.index != used_copies_) continue;
      driver.Check(driver.api().streamWaitEvent(parts_.broadcast->get(), copy.end.get(), 0), "cuStreamWaitEvent");
    }
    used_copies_++;
  }
  work.begin.Record(*parts_.broadcast);
  const auto give_up = [this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    return failure_.has_value();
  };
  if (!broadcasts.empty() && !parts_.communicator->Broadcast(broadcasts, *parts_.broadcast, give_up)) return;
  work.end.Record(*parts_.broadcast);
  const std::lock_guard<std::mutex> lock(mutex_);
  broadcasts_.push_back(std::move(work));
  next_step_++;
  watch_wake_.notify_one();
}

// ---- watching

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

/// Takes note of everything that has ended since. Under the lock.
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

/// The error of a pipeline that stands still: what it waits for, and whose part that is.
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

/// After the last callback, so that nobody who waited for it is called back later.
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
