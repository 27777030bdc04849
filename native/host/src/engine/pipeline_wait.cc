#include "pipeline_wait.h"

#include <algorithm>

namespace ckpt::host {
namespace {

using Clock = std::chrono::steady_clock;

// How long a wait sleeps at most before it looks at aborts of members it does not wait for: 50 wake-ups a second and thread.
constexpr std::chrono::milliseconds kSlice{20};

std::uint64_t pack(const WaitFor& what) {
  return static_cast<std::uint64_t>(what.kind) | static_cast<std::uint64_t>(what.member & 0xffffff) << 8 |
         static_cast<std::uint64_t>(what.bucket) << 32;
}

WaitFor unpack(std::uint64_t word) {
  return {static_cast<WaitKind>(word & 0xff), static_cast<std::uint32_t>(word >> 8 & 0xffffff),
          static_cast<std::uint32_t>(word >> 32)};
}

RingCounter& counterOf(RingControl& control, WaitKind kind) {
  switch (kind) {
    case WaitKind::produced:
      return control.produced;
    case WaitKind::received:
      return control.received;
    case WaitKind::released:
      return control.released;
    default:
      return control.generation;
  }
}

std::string describe(const WaitFor& what) {
  const auto member = "member " + std::to_string(what.member);
  const auto bucket = "bucket " + std::to_string(what.bucket);
  switch (what.kind) {
    case WaitKind::produced:
      return "H2D of " + bucket + " by " + member;
    case WaitKind::received:
      return "broadcast to " + member + " (before " + bucket + ")";
    case WaitKind::released:
      return "release by the engine worker of " + member + " (before " + bucket + ")";
    default:
      return "the start of " + member;
  }
}

const char* nameOf(Stage stage) { return stage == Stage::h2d ? "H2D" : "broadcast"; }

/** Says in the control page what a stage waits for, while it does. */
class PublishedWait {
 public:
  PublishedWait(RingWaiting& slot, const WaitFor& what, std::uint64_t need) : slot_(slot) {
    slot_.need.store(need);
    slot_.what.store(pack(what));
  }
  ~PublishedWait() { slot_.what.store(0); }
  PublishedWait(const PublishedWait&) = delete;
  PublishedWait& operator=(const PublishedWait&) = delete;

 private:
  RingWaiting& slot_;
};

}  // namespace

std::uint64_t PipelineWaits::read(const WaitFor& what) const noexcept {
  auto& ring = control(what.member);
  const bool started = ring.generation.value.load() == pipeline_.spec.generation;
  if (what.kind == WaitKind::started) return started ? 1 : 0;
  // Counters of an earlier run mean nothing; those of a member that has started were reset before it said so.
  return started ? counterOf(ring, what.kind).value.load() : 0;
}

std::uint64_t PipelineWaits::groupProgress() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& ring : pipeline_.spec.rings) {
    sum += ring.control->generation.value.load() + ring.control->produced.value.load() + ring.control->received.value.load() +
           ring.control->released.value.load();
  }
  return sum;
}

std::optional<PipelineFailure> PipelineWaits::checkPeers() const {
  const auto& spec = pipeline_.spec;
  for (std::uint32_t member = 0; member < spec.rings.size(); ++member) {
    if (member == spec.position) continue;
    const auto& ring = control(member);
    if (ring.aborted.value.load() == spec.generation) {
      return PipelineFailure{FailureCode::aborted, "member " + std::to_string(member) + " gave up: " + abortReason(ring), member};
    }
    if (ring.generation.value.load() > spec.generation || ring.aborted.value.load() > spec.generation) {
      return PipelineFailure{FailureCode::aborted, "member " + std::to_string(member) + " left for a later run", member};
    }
  }
  return std::nullopt;
}

std::optional<PipelineFailure> PipelineWaits::await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen) {
  seen = read(what);
  if (seen >= need) return std::nullopt;

  const auto& spec = pipeline_.spec;
  auto& ring = control(what.member);
  const std::chrono::milliseconds timeout(spec.timeoutMs);
  const PublishedWait published(control(spec.position).waiting[static_cast<std::uint32_t>(stage)], what, need);
  // A member that has not started wakes nobody on its other counters.
  CounterWait wait(read({WaitKind::started, what.member, 0}) == 0 ? ring.generation : counterOf(ring, what.kind));
  auto progress = groupProgress();
  auto deadline = Clock::now() + timeout;
  for (;;) {
    const auto ticket = wait.ticket();
    seen = read(what);
    if (seen >= need || stopped_.load()) return std::nullopt;
    if (auto failure = checkPeers()) return failure;
    const auto now = Clock::now();
    if (const auto current = groupProgress(); current != progress) {
      progress = current;
      deadline = now + timeout;
    }
    if (now >= deadline) return timedOut(stage, what, need);
    wait.sleep(ticket, std::min<Clock::duration>(kSlice, deadline - now));
  }
}

// Follows from member to member who waits for whom. The one at the end, who waits for nobody or for what is already there, is the
// one that holds everybody up.
PipelineFailure PipelineWaits::timedOut(Stage stage, const WaitFor& what, std::uint64_t need) const {
  const auto& spec = pipeline_.spec;
  const auto what0 = describe(what);
  auto current = what;
  for (std::size_t hops = 0; hops < 2 * spec.rings.size(); ++hops) {
    if (current.kind == WaitKind::released || current.kind == WaitKind::started) break;
    const auto& ring = control(current.member);
    auto itsStage = Stage::h2d;
    if (current.kind == WaitKind::received) {
      const auto bucket = ring.received.value.load();
      if (bucket >= spec.buckets.size()) break;
      if (spec.buckets[bucket].owner != current.member) itsStage = Stage::broadcast;
    }
    const auto& waiting = ring.waiting[static_cast<std::uint32_t>(itsStage)];
    const auto next = unpack(waiting.what.load());
    if (ring.generation.value.load() != spec.generation || next.kind == WaitKind::nothing) break;
    if (next.member >= spec.rings.size() || read(next) >= waiting.need.load()) break;
    current = next;
  }
  auto message = "no progress for " + std::to_string(spec.timeoutMs) + " ms: " + nameOf(stage) + " of bucket " +
                 std::to_string(what.bucket) + " at member " + std::to_string(spec.position) + " waits for " + what0;
  if (describe(current) != what0) message += ", held up by " + describe(current);
  return {FailureCode::timeout, std::move(message) + " (" + std::to_string(need) + " needed, " + std::to_string(read(what)) + " there)",
          current.member};
}

}  // namespace ckpt::host
