#include "pipeline.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

namespace ckpt::host {
namespace {

// How much is copied between two looks at the stop flag.
constexpr std::uint64_t kPieceBytes = 1 << 20;

}  // namespace

Pipeline::Pipeline(PreparedPipeline prepared, PipelineEvents events)
    : prepared_(std::move(prepared)),
      events_(std::move(events)),
      clock_(prepared_.spec.buckets.size()),
      waits_(prepared_, stopped_) {
  beginRun(*ownRing().control, prepared_.spec.generation);
  lead_ = std::thread([this] { runLead(); });
}

Pipeline::~Pipeline() {
  abort({FailureCode::aborted, "the pipeline was closed", -1});
  lead_.join();
}

std::optional<PipelineFailure> Pipeline::release(std::uint32_t bucket) {
  if (stopped_.load()) return std::nullopt;
  auto& released = ownRing().control->released;
  if (bucket >= delivered_.load()) {
    return PipelineFailure{FailureCode::invalidArgument, "bucket " + std::to_string(bucket) + " is released before it was delivered", -1};
  }
  if (bucket < released.value.load()) {
    return PipelineFailure{FailureCode::invalidState, "bucket " + std::to_string(bucket) + " was released before", -1};
  }
  released.publish(std::uint64_t{bucket} + 1);
  return std::nullopt;
}

void Pipeline::abort(PipelineFailure failure) {
  const std::lock_guard<std::mutex> lock(failureMutex_);
  if (stopped_.load()) return;
  abortRun(*ownRing().control, prepared_.spec.generation, failure.message);
  failure_ = std::move(failure);
  stopped_.store(true);
  // Own threads may sleep on a peer's counters; a sleep that only begins now ends by itself within a slice.
  for (const auto& ring : prepared_.spec.rings) {
    for (auto* counter : {&ring.control->generation, &ring.control->produced, &ring.control->received, &ring.control->released}) {
      counter->wake();
    }
  }
}

void Pipeline::runLead() {
  pthread_setname_np(pthread_self(), "ckpt-broadcast");
  std::thread h2d;
  try {
    h2d = std::thread([this] { runH2d(); });
    runBroadcast();
  } catch (const std::system_error& error) {
    abort({FailureCode::nativeFailure, std::string("cannot start the H2D thread: ") + error.what(), -1});
  }
  // Waits for every delivered bucket's release; that is the end of a run that goes well.
  std::uint64_t released = 0;
  const auto count = prepared_.spec.buckets.size();
  const auto last = static_cast<std::uint32_t>(count == 0 ? 0 : count - 1);
  await(Stage::broadcast, {WaitKind::released, prepared_.spec.position, last}, count, released);
  if (h2d.joinable()) h2d.join();
  PipelineResult result;
  {
    const std::lock_guard<std::mutex> lock(failureMutex_);
    stopped_.store(true);
    result.failure = failure_;
  }
  result.stats = clock_.take();
  events_.onFinished(std::move(result));
}

void Pipeline::runH2d() {
  pthread_setname_np(pthread_self(), "ckpt-h2d");
  for (const auto bucket : prepared_.own) {
    if (!awaitWritable(Stage::h2d, bucket) || !copyOwn(bucket)) return;
    complete(Stage::h2d);
  }
}

void Pipeline::runBroadcast() {
  // Everybody has mapped every ring before anybody can finish (and remove its ring's name).
  std::uint64_t seen = 0;
  for (std::uint32_t member = 0; member < prepared_.spec.rings.size(); ++member) {
    if (!await(Stage::broadcast, {WaitKind::started, member, 0}, 1, seen)) return;
  }
  for (const auto bucket : prepared_.foreign) {
    if (!awaitWritable(Stage::broadcast, bucket) || !fetch(bucket)) return;
    complete(Stage::broadcast);
  }
}

bool Pipeline::await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen) {
  if (stopped_.load()) return false;
  if (auto failure = waits_.await(stage, what, need, seen)) abort(std::move(*failure));
  return !stopped_.load();
}

// The bytes of `bucket` in the own ring are free when the own worker is done with what lay there, and when the peers have fetched it.
bool Pipeline::awaitWritable(Stage stage, std::uint32_t bucket) {
  const auto& needs = prepared_.buckets[bucket];
  const auto position = prepared_.spec.position;
  std::uint64_t seen = 0;
  if (!await(stage, {WaitKind::released, position, bucket}, needs.releasedBefore, seen)) return false;
  for (std::uint32_t member = 0; member < prepared_.spec.rings.size(); ++member) {
    if (member == position) continue;
    if (!await(stage, {WaitKind::received, member, bucket}, needs.receivedBefore, seen)) return false;
  }
  return true;
}

bool Pipeline::copyOwn(std::uint32_t index) {
  const auto& spec = prepared_.spec;
  const auto& bucket = spec.buckets[index];
  auto* target = ownRing().data + bucket.ringOffset;
  const auto publishEvery = spec.serial ? std::max<std::uint64_t>(bucket.bytes, 1) : spec.chunkBytes;
  const auto before = prepared_.buckets[index].producedBefore;
  const auto start = clock_.now();
  auto copy = spec.firstCopy[index];
  const auto lastCopy = spec.firstCopy[index + 1];
  for (std::uint64_t chunk = 0; chunk < bucket.bytes; chunk += publishEvery) {
    const auto chunkEnd = std::min(bucket.bytes, chunk + std::min(publishEvery, bucket.bytes));
    const auto entered = clock_.enter();
    std::uint64_t copied = 0;
    while (copy < lastCopy && !stopped_.load()) {
      const auto& run = spec.copies[copy];
      const auto from = std::max(run.bucketOffset, chunk) + 0;
      const auto to = std::min(run.bucketOffset + run.bytes, chunkEnd);
      const auto* source = spec.sources[run.source].data + run.sourceOffset - run.bucketOffset;
      for (auto at = from; at < to && !stopped_.load(); at += kPieceBytes) {
        const auto bytes = std::min(kPieceBytes, to - at);
        std::memcpy(target + at, source + at, bytes);
        copied += bytes;
      }
      if (run.bucketOffset + run.bytes > chunkEnd) break;
      ++copy;
    }
    clock_.leave(Stage::h2d, entered, copied);
    if (stopped_.load()) return false;
    ownRing().control->produced.publish(before + chunkEnd);
  }
  clock_.span(Stage::h2d, index, start, clock_.now());
  return true;
}

bool Pipeline::fetch(std::uint32_t index) {
  const auto& spec = prepared_.spec;
  const auto& bucket = spec.buckets[index];
  const auto* source = spec.rings[bucket.owner].data + bucket.ringOffset;
  auto* target = ownRing().data + bucket.ringOffset;
  const auto before = prepared_.buckets[index].producedBefore;
  double start = -1;
  std::uint64_t produced = 0;
  for (std::uint64_t done = 0; done < bucket.bytes;) {
    if (!await(Stage::broadcast, {WaitKind::produced, bucket.owner, index}, before + done + 1, produced)) return false;
    if (start < 0) start = clock_.now();
    const auto available = std::min(bucket.bytes, produced - before);
    const auto entered = clock_.enter();
    const auto first = done;
    while (done < available && !stopped_.load()) {
      const auto bytes = std::min(kPieceBytes, available - done);
      std::memcpy(target + done, source + done, bytes);
      done += bytes;
    }
    clock_.leave(Stage::broadcast, entered, done - first);
    if (stopped_.load()) return false;
  }
  // An owner that gave up may have let a later run write to its ring while it was read here.
  if (auto failure = waits_.checkPeers()) {
    abort(std::move(*failure));
    return false;
  }
  clock_.span(Stage::broadcast, index, start < 0 ? clock_.now() : start, clock_.now());
  return true;
}

void Pipeline::complete(Stage stage) {
  const std::lock_guard<std::mutex> lock(deliveryMutex_);
  ++done_[static_cast<std::uint32_t>(stage)];
  const auto& own = prepared_.own;
  const auto& foreign = prepared_.foreign;
  const std::uint64_t count = prepared_.spec.buckets.size();
  const auto nextOwn = done_[0] < own.size() ? own[done_[0]] : count;
  const auto nextForeign = done_[1] < foreign.size() ? foreign[done_[1]] : count;
  const auto complete = std::min(nextOwn, nextForeign);
  const auto before = delivered_.load();
  if (complete == before) return;
  ownRing().control->received.publish(complete);
  delivered_.store(complete);
  for (auto bucket = before; bucket < complete; ++bucket) events_.onBucket(static_cast<std::uint32_t>(bucket));
}

}  // namespace ckpt::host
