#include "pipeline.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "copy.h"

namespace ckpt::host {
namespace {

// How much is copied between two checks of the stop flag.
constexpr std::uint64_t kPieceBytes = 256 << 10;

}  // namespace

Pipeline::Pipeline(PreparedPipeline prepared, PipelineEvents events)
    : prepared_(std::move(prepared)),
      events_(std::move(events)),
      clock_(prepared_.spec.buckets.size()),
      waits_(prepared_, stopped_),
      arrivals_(prepared_.spec.buckets.size()) {
  BeginRun(*OwnRing().control, prepared_.spec.generation);
  lead_ = std::thread([this] { RunLead(); });
}

Pipeline::~Pipeline() {
  Fail({code::kAborted, "the pipeline was closed"});
  if (lead_.joinable()) lead_.join();
}

bool Pipeline::Shutdown(std::chrono::milliseconds) {
  Fail({code::kAborted, "the process is ending"});
  if (lead_.joinable()) lead_.join();
  return true;
}

void Pipeline::Release(std::uint32_t bucket) {
  if (stopped_.load()) return;
  auto& released = OwnRing().control->released;
  if (bucket >= delivered_.load()) {
    throw Error(code::kInvalidArgument, "bucket " + std::to_string(bucket) + " is released before its delivery")
        .WithField("bucket");
  }
  if (bucket < released.value.load()) {
    throw Error(code::kInvalidState, "bucket " + std::to_string(bucket) + " is already released").WithField("bucket");
  }
  released.Publish(std::uint64_t{bucket} + 1);
}

void Pipeline::Arrived(std::uint32_t bucket) {
  if (stopped_.load()) return;
  const auto& spec = prepared_.spec;
  if (spec.arrive_in == ArriveIn::kNowhere || bucket >= spec.buckets.size() || spec.buckets[bucket].owner != spec.position) {
    throw Error(code::kInvalidArgument, "bucket " + std::to_string(bucket) + " is not one that arrives here")
        .WithField("bucket");
  }
  arrivals_.Add(bucket);
}

void Pipeline::Abort(Error failure) { Fail({failure.code(), failure.what(), failure.member()}); }

void Pipeline::Fail(PipelineFailure failure) {
  const std::lock_guard<std::mutex> lock(failure_mutex_);
  if (stopped_.load()) return;
  const bool follows = !failure.relayed.empty();
  AbortRun(*OwnRing().control, prepared_.spec.generation,
           follows ? static_cast<std::uint32_t>(failure.member) : prepared_.spec.position,
           follows ? failure.relayed : failure.message);
  failure_ = std::move(failure);
  stopped_.store(true);
  arrivals_.Wake();
  // Own threads may sleep on a peer's counters; a sleep that begins only now ends by itself within a slice.
  for (const auto& ring : prepared_.spec.rings) {
    for (auto* counter :
         {&ring.control->generation, &ring.control->produced, &ring.control->received, &ring.control->released}) {
      counter->Wake();
    }
  }
}

void Pipeline::RunLead() {
  pthread_setname_np(pthread_self(), "ckpt-broadcast");
  std::thread h2d, writable;
  try {
    h2d = std::thread([this] { RunH2d(); });
    if (prepared_.spec.arrive_in == ArriveIn::kRing) writable = std::thread([this] { RunWritable(); });
    RunBroadcast();
  } catch (const std::system_error& error) {
    Fail({code::kNativeFailure, std::string("cannot start the H2D thread: ") + error.what()});
  }
  AwaitEnd();
  if (h2d.joinable()) h2d.join();
  if (writable.joinable()) writable.join();
  std::optional<Error> failure;
  {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    stopped_.store(true);
    if (failure_) failure = Error(failure_->code.c_str(), failure_->message).WithMember(failure_->member);
  }
  events_.on_finished(std::move(failure), clock_.Take());
  if (events_.on_drained) events_.on_drained();
}

// No member leaves a successful run before every worker has released everything: from then on no ring of the group is read.
void Pipeline::AwaitEnd() {
  const auto count = prepared_.spec.buckets.size();
  const auto last = static_cast<std::uint32_t>(count == 0 ? 0 : count - 1);
  std::uint64_t seen = 0;
  if (!Await(Stage::kBroadcast, {WaitKind::kReleased, prepared_.spec.position, last}, count, seen)) return;
  for (std::uint32_t member = 0; member < prepared_.spec.rings.size(); ++member) {
    if (!Await(Stage::kBroadcast, {WaitKind::kFinished, member, last}, count, seen)) return;
  }
}

void Pipeline::RunH2d() {
  pthread_setname_np(pthread_self(), "ckpt-h2d");
  for (const auto bucket : prepared_.own) {
    const bool ready = prepared_.spec.arrive_in == ArriveIn::kRing
                           ? TakeFromRing(bucket)
                           : AwaitWritable(Stage::kH2d, bucket) && AwaitArrival(bucket) && CopyOwn(bucket);
    if (!ready) return;
    Complete(Stage::kH2d);
  }
}

void Pipeline::RunWritable() {
  pthread_setname_np(pthread_self(), "ckpt-writable");
  for (const auto bucket : prepared_.own) {
    if (!AwaitWritable(Stage::kH2d, bucket)) return;
    events_.on_writable(bucket);
  }
}

void Pipeline::RunBroadcast() {
  // Every member has mapped every ring before any can finish (and remove its ring's name).
  std::uint64_t seen = 0;
  for (std::uint32_t member = 0; member < prepared_.spec.rings.size(); ++member) {
    if (!Await(Stage::kBroadcast, {WaitKind::kStarted, member, 0}, 1, seen)) return;
  }
  for (const auto bucket : prepared_.foreign) {
    if (!AwaitWritable(Stage::kBroadcast, bucket) || !Fetch(bucket)) return;
    Complete(Stage::kBroadcast);
  }
}

bool Pipeline::Await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen) {
  if (stopped_.load()) return false;
  if (auto failure = waits_.Await(stage, what, need, seen)) Fail(std::move(*failure));
  return !stopped_.load();
}

// The bytes of `bucket` in the own ring are free when the own worker has finished with their previous contents, and the peers
// have read them.
bool Pipeline::AwaitWritable(Stage stage, std::uint32_t bucket) {
  const auto& needs = prepared_.buckets[bucket];
  const auto position = prepared_.spec.position;
  std::uint64_t seen = 0;
  if (!Await(stage, {WaitKind::kReleased, position, bucket}, needs.released_before, seen)) return false;
  for (std::uint32_t member = 0; member < prepared_.spec.rings.size(); ++member) {
    if (member == position) continue;
    if (!Await(stage, {WaitKind::kReceived, member, bucket}, needs.received_before, seen)) return false;
  }
  return true;
}

bool Pipeline::AwaitArrival(std::uint32_t bucket) {
  if (prepared_.spec.arrive_in == ArriveIn::kNowhere) return true;
  if (auto failure = waits_.AwaitArrival(arrivals_, bucket)) Fail(std::move(*failure));
  return !stopped_.load();
}

bool Pipeline::TakeFromRing(std::uint32_t index) {
  const auto start = clock_.now();
  if (!AwaitArrival(index)) return false;
  const auto bytes = prepared_.spec.buckets[index].bytes;
  clock_.Leave(Stage::kH2d, clock_.Enter(), bytes);
  OwnRing().control->produced.Publish(prepared_.buckets[index].produced_before + bytes);
  clock_.Span(Stage::kH2d, index, start, clock_.now());
  return true;
}

bool Pipeline::CopyOwn(std::uint32_t index) {
  const auto& spec = prepared_.spec;
  const auto& bucket = spec.buckets[index];
  auto* target = OwnRing().data + bucket.ring_offset;
  const auto publish_every = spec.serial ? std::max<std::uint64_t>(bucket.bytes, 1) : spec.chunk_bytes;
  const auto before = prepared_.buckets[index].produced_before;
  const auto start = clock_.now();
  auto copy = spec.first_copy[index];
  const auto last_copy = spec.first_copy[index + 1];
  for (std::uint64_t chunk = 0; chunk < bucket.bytes; chunk += publish_every) {
    const auto chunk_end = std::min(bucket.bytes, chunk + std::min(publish_every, bucket.bytes));
    const auto entered = clock_.Enter();
    std::uint64_t copied = 0;
    while (copy < last_copy && !stopped_.load()) {
      const auto& run = spec.copies[copy];
      const auto from = std::max(run.bucket_offset, chunk);
      const auto to = std::min(run.bucket_offset + run.bytes, chunk_end);
      const auto* source = spec.sources[run.source].data + run.source_offset;
      if (to > from) copied += CopyPieces(target + from, source + (from - run.bucket_offset), to - from);
      if (run.bucket_offset + run.bytes > chunk_end) break;
      ++copy;
    }
    clock_.Leave(Stage::kH2d, entered, copied);
    if (stopped_.load()) return false;
    OwnRing().control->produced.Publish(before + chunk_end);
  }
  clock_.Span(Stage::kH2d, index, start, clock_.now());
  return true;
}

bool Pipeline::Fetch(std::uint32_t index) {
  const auto& spec = prepared_.spec;
  const auto& bucket = spec.buckets[index];
  const auto* source = spec.rings[bucket.owner].data + bucket.ring_offset;
  auto* target = OwnRing().data + bucket.ring_offset;
  const auto before = prepared_.buckets[index].produced_before;
  double start = -1;
  std::uint64_t produced = 0;
  for (std::uint64_t done = 0; done < bucket.bytes;) {
    if (!Await(Stage::kBroadcast, {WaitKind::kProduced, bucket.owner, index}, before + done + 1, produced)) return false;
    if (start < 0) start = clock_.now();
    const auto available = std::min(bucket.bytes, produced - before);
    const auto entered = clock_.Enter();
    const auto copied = CopyPieces(target + done, source + done, available - done);
    clock_.Leave(Stage::kBroadcast, entered, copied);
    done += copied;
    if (stopped_.load()) return false;
  }
  // An owner that aborted may have let a later run write to its ring while it was read here.
  if (auto failure = waits_.CheckPeers()) {
    Fail(std::move(*failure));
    return false;
  }
  clock_.Span(Stage::kBroadcast, index, start < 0 ? clock_.now() : start, clock_.now());
  return true;
}

// Returns the bytes copied; fewer if the run is stopped meanwhile.
std::uint64_t Pipeline::CopyPieces(std::byte* target, const std::byte* source, std::uint64_t bytes) const {
  std::uint64_t done = 0;
  while (done < bytes && !stopped_.load()) {
    const auto piece = std::min(kPieceBytes, bytes - done);
    if (prepared_.non_temporal) {
      CopyBytes(target + done, source + done, piece);
    } else {
      std::memcpy(target + done, source + done, piece);
    }
    done += piece;
  }
  return done;
}

void Pipeline::Complete(Stage stage) {
  const std::lock_guard<std::mutex> lock(delivery_mutex_);
  ++done_[static_cast<std::uint32_t>(stage)];
  const auto& own = prepared_.own;
  const auto& foreign = prepared_.foreign;
  const std::uint64_t count = prepared_.spec.buckets.size();
  const auto next_own = done_[0] < own.size() ? own[done_[0]] : count;
  const auto next_foreign = done_[1] < foreign.size() ? foreign[done_[1]] : count;
  const auto complete = std::min(next_own, next_foreign);
  const auto before = delivered_.load();
  if (complete == before) return;
  OwnRing().control->received.Publish(complete);
  delivered_.store(complete);
  for (auto bucket = before; bucket < complete; ++bucket) events_.on_bucket(static_cast<std::uint32_t>(bucket));
}

}  // namespace ckpt::host
