#include "pipeline_wait.h"

#include <algorithm>
#include <limits>

namespace ckpt::host {
namespace {

using Clock = std::chrono::steady_clock;

// How long a wait sleeps at most before it checks for aborts of other members: 50 wake-ups per second and thread.
constexpr std::chrono::milliseconds kSlice{20};

std::uint64_t Pack(const WaitFor& what) {
  return static_cast<std::uint64_t>(what.kind) | static_cast<std::uint64_t>(what.member & 0xffffff) << 8 |
         static_cast<std::uint64_t>(what.bucket) << 32;
}

WaitFor Unpack(std::uint64_t word) {
  return {static_cast<WaitKind>(word & 0xff), static_cast<std::uint32_t>(word >> 8 & 0xffffff),
          static_cast<std::uint32_t>(word >> 32)};
}

RingCounter& CounterOf(RingControl& control, WaitKind kind) {
  switch (kind) {
    case WaitKind::kProduced:
      return control.produced;
    case WaitKind::kReceived:
      return control.received;
    case WaitKind::kReleased:
    case WaitKind::kFinished:
      return control.released;
    default:
      return control.generation;
  }
}

std::string Describe(const WaitFor& what) {
  const auto member = "member " + std::to_string(what.member);
  const auto bucket = "bucket " + std::to_string(what.bucket);
  switch (what.kind) {
    case WaitKind::kProduced:
      return "H2D of " + bucket + " by " + member;
    case WaitKind::kReceived:
      return "broadcast to " + member + " (before " + bucket + ")";
    case WaitKind::kReleased:
      return "release by the engine worker of " + member + " (before " + bucket + ")";
    case WaitKind::kFinished:
      return "the last release by the engine worker of " + member;
    case WaitKind::kArrival:
      return "the arrival of " + bucket + " at " + member;
    default:
      return "the start of " + member;
  }
}

const char* NameOf(Stage stage) { return stage == Stage::kH2d ? "H2D" : "broadcast"; }

/// Publishes in the control page what a stage waits for, while it waits.
class PublishedWait {
 public:
  PublishedWait(RingWaiting& slot, const WaitFor& what, std::uint64_t need) : slot_(slot) {
    slot_.need.store(need);
    slot_.what.store(Pack(what));
  }
  ~PublishedWait() { slot_.what.store(0); }
  PublishedWait(const PublishedWait&) = delete;
  PublishedWait& operator=(const PublishedWait&) = delete;

 private:
  RingWaiting& slot_;
};

}  // namespace

std::uint64_t PipelineWaits::Read(const WaitFor& what) const noexcept {
  auto& ring = Control(what.member);
  const auto generation = ring.generation.value.load();
  const bool started = generation == pipeline_.spec.generation;
  // At the end no member leaves before all have arrived, so a member that has left had arrived; its counters belong to another
  // run by now.
  if (what.kind == WaitKind::kFinished && generation > pipeline_.spec.generation) return pipeline_.spec.buckets.size();
  if (what.kind == WaitKind::kStarted) return started ? 1 : 0;
  // Counters of an earlier run are meaningless; a member resets them before it announces its start.
  return started ? CounterOf(ring, what.kind).value.load() : 0;
}

std::uint64_t PipelineWaits::GroupProgress() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& ring : pipeline_.spec.rings) {
    sum += ring.control->generation.value.load() + ring.control->produced.value.load() + ring.control->received.value.load() +
           ring.control->released.value.load();
  }
  return sum;
}

std::optional<PipelineFailure> PipelineWaits::CheckPeers(bool at_end) const {
  const auto& spec = pipeline_.spec;
  for (std::uint32_t member = 0; member < spec.rings.size(); ++member) {
    if (member == spec.position) continue;
    const auto& ring = Control(member);
    if (ring.aborted.value.load() == spec.generation) {
      const auto by = ring.aborted_by;
      auto reason = AbortReason(ring);
      return PipelineFailure{code::kAborted, "member " + std::to_string(by) + " gave up: " + reason,
                             static_cast<std::int64_t>(by), std::move(reason)};
    }
    if (!at_end && ring.generation.value.load() > spec.generation) {
      return PipelineFailure{code::kAborted, "member " + std::to_string(member) + " left for a later run", member};
    }
  }
  return std::nullopt;
}

std::optional<PipelineFailure> PipelineWaits::Await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen) {
  seen = Read(what);
  if (seen >= need) return std::nullopt;

  // A member that has not started does not wake anyone through its other counters.
  if (what.kind != WaitKind::kStarted && what.kind != WaitKind::kFinished) {
    std::uint64_t started = 0;
    if (auto failure = Await(stage, {WaitKind::kStarted, what.member, what.bucket}, 1, started)) return failure;
  }
  const auto& spec = pipeline_.spec;
  const std::chrono::milliseconds timeout(spec.timeout_ms);
  const PublishedWait published(Control(spec.position).waiting[static_cast<std::uint32_t>(stage)], what, need);
  CounterWait wait(CounterOf(Control(what.member), what.kind));
  auto progress = GroupProgress();
  auto deadline = Clock::now() + timeout;
  for (;;) {
    const auto ticket = wait.ticket();
    seen = Read(what);
    if (seen >= need || stopped_.load()) return std::nullopt;
    if (auto failure = CheckPeers(what.kind == WaitKind::kFinished)) return failure;
    const auto now = Clock::now();
    if (const auto current = GroupProgress(); current != progress) {
      progress = current;
      deadline = now + timeout;
    }
    if (now >= deadline) return TimedOut(stage, what, need);
    wait.Sleep(ticket, std::min<Clock::duration>(kSlice, deadline - now));
  }
}

std::optional<PipelineFailure> PipelineWaits::AwaitArrival(Arrivals& arrivals, std::uint32_t bucket) {
  const auto& spec = pipeline_.spec;
  const std::chrono::milliseconds timeout(spec.timeout_ms);
  const WaitFor what{WaitKind::kArrival, spec.position, bucket};
  // No counter of the ring represents it: to the others it looks unfinished until it ends.
  constexpr auto kNever = std::numeric_limits<std::uint64_t>::max();
  const PublishedWait published(Control(spec.position).waiting[static_cast<std::uint32_t>(Stage::kH2d)], what, kNever);
  const auto begin = Clock::now();
  while (!stopped_.load() && !arrivals.Await(bucket, kSlice)) {
    if (auto failure = CheckPeers()) return failure;
    if (Clock::now() - std::max(begin, arrivals.last()) < timeout) continue;
    return PipelineFailure{code::kTimeout,
                           "no progress for " + std::to_string(spec.timeout_ms) + " ms: H2D at member " +
                               std::to_string(spec.position) + " waits for " + Describe(what),
                           spec.position};
  }
  return std::nullopt;
}

// Follows the chain of waiting members. The one at the end, which waits for no member or for something that is already
// complete, delays all others.
PipelineFailure PipelineWaits::TimedOut(Stage stage, const WaitFor& what, std::uint64_t need) const {
  const auto& spec = pipeline_.spec;
  const auto awaited = Describe(what);
  auto current = what;
  for (std::size_t hops = 0; hops < 2 * spec.rings.size(); ++hops) {
    const auto& ring = Control(current.member);
    if (current.kind == WaitKind::kStarted || current.kind == WaitKind::kArrival ||
        ring.generation.value.load() != spec.generation)
      break;
    const auto received = ring.received.value.load();
    if (current.kind == WaitKind::kReleased || current.kind == WaitKind::kFinished) {
      if (ring.released.value.load() < received || received >= spec.buckets.size()) break;
      // Its worker has released everything it was given: the next bucket is missing.
      current = {WaitKind::kReceived, current.member, static_cast<std::uint32_t>(received)};
    }
    auto its_stage = Stage::kH2d;
    if (current.kind == WaitKind::kReceived) {
      if (received >= spec.buckets.size()) break;
      if (spec.buckets[received].owner != current.member) its_stage = Stage::kBroadcast;
    }
    const auto& waiting = ring.waiting[static_cast<std::uint32_t>(its_stage)];
    const auto next = Unpack(waiting.what.load());
    if (next.kind == WaitKind::kNothing) break;
    if (next.member >= spec.rings.size() || Read(next) >= waiting.need.load()) break;
    current = next;
  }
  auto message = "no progress for " + std::to_string(spec.timeout_ms) + " ms: " + NameOf(stage) + " of bucket " +
                 std::to_string(what.bucket) + " at member " + std::to_string(spec.position) + " waits for " + awaited;
  if (Describe(current) != awaited) message += ", held up by " + Describe(current);
  return {code::kTimeout,
          std::move(message) + " (" + std::to_string(need) + " needed, " + std::to_string(Read(what)) + " there)",
          current.member};
}

}  // namespace ckpt::host
