#include <algorithm>
#include <chrono>
#include <vector>

#include "copy_batch.h"
#include "pipeline.h"

namespace ckpt::cuda {
namespace {

/// How far host-to-device copies run ahead of their completion: enough to keep the link busy, little enough to stop soon.
constexpr std::uint64_t kCopyAheadBytes = std::uint64_t{256} << 20;
constexpr std::uint32_t kCopiesAhead = 2;
/// Broadcasts that are enqueued and not finished.
constexpr std::size_t kStepsAhead = 4;
constexpr auto kFailureCheck = std::chrono::milliseconds(10);

}  // namespace

bool Pipeline::MayCopy() const {
  if (next_copy_ >= schedule_.own().size()) return false;
  const Chunk& chunk = schedule_.chunks()[schedule_.own()[next_copy_]];
  if (chunk.after > released_ || !arrived_[chunk.bucket]) return false;
  if (Alternating() && next_step_ < schedule_.rounds()[chunk.round].first_step) return false;
  return copies_.size() < kCopiesAhead || copying_bytes_ + chunk.bytes <= kCopyAheadBytes;
}

bool Pipeline::MayBroadcast() const {
  if (alone_ || next_step_ >= schedule_.steps().size()) return false;
  const Step& step = schedule_.steps()[next_step_];
  if (step.after > released_ || broadcasts_.size() >= kStepsAhead) return false;
  if (Alternating()) return next_copy_ >= schedule_.rounds()[step.round + 1].first_own;
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

void Pipeline::WaitFor(const Event& event, const Stream& stream) {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().streamWaitEvent(stream.get(), event.get(), 0), "cuStreamWaitEvent");
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
  if (Alternating()) {
    // After the last broadcast of the previous rounds, all of which have been enqueued.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!broadcasts_.empty()) WaitFor(broadcasts_.back().end, *parts_.h2d);
  }
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
  CopyBatch batch(CopyBatch::Direction::kToDevice);
  for (const Piece& piece : pieces) {
    batch.Add(parts_.ring->pointer() + piece.offset, reinterpret_cast<abi::DevicePointer>(piece.from), piece.bytes);
  }
  batch.Enqueue(*parts_.h2d);
}

void Pipeline::EnqueueBroadcast() {
  const Step& step = schedule_.steps()[next_step_];
  std::vector<InPlaceBroadcast> broadcasts;
  bool own = false;
  for (std::uint32_t i = 0; i < step.chunk_count; i++) {
    const Chunk& chunk = schedule_.chunks()[step.first_chunk + i];
    own = own || chunk.owner == schedule_.job().position;
    if (chunk.bytes > 0) broadcasts.push_back({parts_.ring->pointer() + chunk.offset, chunk.bytes, chunk.owner});
  }
  InFlight work{next_step_, TakeEvent(), TakeEvent()};
  {
    // With the lock held: the watching thread reuses the event after it has seen the end of the copy.
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::uint32_t last = Alternating() ? next_copy_ - 1 : used_copies_;
    for (const InFlight& copy : copies_) {
      if (copy.index == last && (own || Alternating())) WaitFor(copy.end, *parts_.broadcast);
    }
    if (own) used_copies_++;
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

}  // namespace ckpt::cuda
