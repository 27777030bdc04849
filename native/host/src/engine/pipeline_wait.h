#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "pipeline_plan.h"
#include "pipeline_stats.h"

namespace ckpt::host {

/// What a stage can wait for from a member.
enum class WaitKind : std::uint32_t { kNothing = 0, kStarted, kProduced, kReceived, kReleased, kFinished, kArrival };

/// A wait: for `kind` from `member`, so that `bucket` can continue.
struct WaitFor {
  WaitKind kind = WaitKind::kNothing;
  std::uint32_t member = 0;
  std::uint32_t bucket = 0;
};

/// The waits of one member's run: on counters of any member, until they are high enough, the run is stopped, a member aborts,
/// or the whole group has made no progress during the timeout.
class PipelineWaits {
 public:
  PipelineWaits(const PreparedPipeline& pipeline, const std::atomic<bool>& stopped) : pipeline_(pipeline), stopped_(stopped) {}

  /// Waits until the counter is at least `need`; stores its value in `seen`. Returns the failure (aborted or timeout, naming
  /// the member), or nothing. Callers also check the stop flag, which ends the wait without a failure.
  std::optional<PipelineFailure> Await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen);

  /// Waits until `bucket` has arrived from outside the group. No counter shows progress there; arrivals of any bucket count
  /// instead.
  std::optional<PipelineFailure> AwaitArrival(Arrivals& arrivals, std::uint32_t bucket);

  /// The failure if a peer aborted this run or continued to a later one; the latter is ignored while this member only waits for
  /// the end.
  std::optional<PipelineFailure> CheckPeers(bool at_end = false) const;

 private:
  RingControl& Control(std::uint32_t member) const noexcept { return *pipeline_.spec.rings[member].control; }
  std::uint64_t Read(const WaitFor& what) const noexcept;
  std::uint64_t GroupProgress() const noexcept;
  PipelineFailure TimedOut(Stage stage, const WaitFor& what, std::uint64_t need) const;

  const PreparedPipeline& pipeline_;
  const std::atomic<bool>& stopped_;
};

}  // namespace ckpt::host
