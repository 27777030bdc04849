#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "pipeline_plan.h"
#include "pipeline_stats.h"

namespace ckpt::host {

/// What a stage can wait for at a member.
enum class WaitKind : std::uint32_t { kNothing = 0, kStarted, kProduced, kReceived, kReleased, kFinished, kArrival };

/// A wait: `kind` of `member`, so that `bucket` can go on.
struct WaitFor {
  WaitKind kind = WaitKind::kNothing;
  std::uint32_t member = 0;
  std::uint32_t bucket = 0;
};

/// The waits of one member's run: on counters of any member, until they are high enough, the run is stopped, a member gives up,
/// or nothing at all has moved in the group for the timeout.
class PipelineWaits {
 public:
  PipelineWaits(const PreparedPipeline& pipeline, const std::atomic<bool>& stopped) : pipeline_(pipeline), stopped_(stopped) {}

  /// Waits until the counter is at least `need`; `seen` gets its value. Returns the failure (aborted or timeout, naming the
  /// member), or nothing; check the stop flag too, which ends the wait without a failure.
  std::optional<PipelineFailure> Await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen);

  /// Waits until `bucket` has come from outside the group. No counter tells of progress there: arrivals of any bucket do.
  std::optional<PipelineFailure> AwaitArrival(Arrivals& arrivals, std::uint32_t bucket);

  /// The failure when a peer gave up this run or, unless this member is only waiting for the end, went on to a later one.
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
