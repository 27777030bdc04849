#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "pipeline_plan.h"
#include "pipeline_stats.h"

namespace ckpt::host {

/** What a stage can wait for at a member. */
enum class WaitKind : std::uint32_t { nothing = 0, started, produced, received, released };

/** A wait: `kind` of `member`, so that `bucket` can go on. */
struct WaitFor {
  WaitKind kind = WaitKind::nothing;
  std::uint32_t member = 0;
  std::uint32_t bucket = 0;
};

/**
 * The waits of one member's run: on counters of any member, until they are high enough, the run is stopped, a member gives up, or
 * nothing at all has moved in the group for the timeout.
 */
class PipelineWaits {
 public:
  PipelineWaits(const PreparedPipeline& pipeline, const std::atomic<bool>& stopped) : pipeline_(pipeline), stopped_(stopped) {}

  /**
   * Waits until the counter is at least `need`; `seen` gets its value. Returns the failure (aborted or timeout, naming the member),
   * or nothing; check `stopped` too, which ends the wait without a failure.
   */
  std::optional<PipelineFailure> await(Stage stage, const WaitFor& what, std::uint64_t need, std::uint64_t& seen);

  /** The failure when a peer gave up this run or went on to a later one. */
  std::optional<PipelineFailure> checkPeers() const;

 private:
  RingControl& control(std::uint32_t member) const noexcept { return *pipeline_.spec.rings[member].control; }
  std::uint64_t read(const WaitFor& what) const noexcept;
  std::uint64_t groupProgress() const noexcept;
  PipelineFailure timedOut(Stage stage, const WaitFor& what, std::uint64_t need) const;

  const PreparedPipeline& pipeline_;
  const std::atomic<bool>& stopped_;
};

}  // namespace ckpt::host
