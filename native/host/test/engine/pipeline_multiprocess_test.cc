// Ranks and engine workers as processes of their own, or as threads of this one, send random plans through their rings. Every
// byte of every bucket is checked as each worker sees it.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>

#include "cluster.h"
#include "pipeline.h"
#include "random_plan.h"

namespace ckpt::host::test {
namespace {

struct Scenario {
  std::string name;
  RandomPlan::Options plan;
  std::uint32_t runs = 1;
  bool processes = true;
  bool serial = false;
  RingStores stores = RingStores::kByRingSize;
  std::uint64_t chunk_bytes = 1 << 12;
  std::uint64_t timeout_ms = 20'000;
  /// Longest pause of a worker at a bucket.
  int worker_pause_us = 0;
  /// What goes wrong in run 1 at member 1 once 5 buckets were delivered there.
  enum class Fault { kNone, kAbort, kDestroy, kKill, kStall } fault = Fault::kNone;

  RandomPlan Plan(std::uint32_t run) const {
    auto options = plan;
    options.seed = plan.seed * 1000 + run;
    return RandomPlan(options);
  }
  bool FaultIn(std::uint32_t run) const { return fault != Fault::kNone && run == 1; }
  /// A member that died or hangs cannot take part in another run.
  std::uint32_t LastRun() const { return fault == Fault::kKill || fault == Fault::kStall ? 2 : runs; }
};

constexpr std::uint32_t kFaultyMember = 1;
constexpr std::uint32_t kFaultAfter = 5;

std::uint64_t Tag(std::uint32_t run, std::uint64_t count) { return static_cast<std::uint64_t>(run) << 32 | count; }

bool AwaitAtLeast(RingCounter& counter, std::uint64_t need, const std::function<bool()>& give_up) {
  CounterWait wait(counter);
  for (;;) {
    const auto ticket = wait.ticket();
    if (counter.value.load() >= need) return true;
    if (give_up()) return false;
    wait.Sleep(ticket, std::chrono::milliseconds(5));
  }
}

/// The engine worker of a member: looks at each bucket in turn, takes its time, and releases it.
void Worker(const Scenario& scenario, const SharedMemory& memory, std::uint32_t member) {
  auto& mailbox = memory->mailboxes[member];
  const auto ring = memory.Ring(member);
  std::mt19937_64 random(scenario.plan.seed + 77 * member);
  for (std::uint32_t run = 0; run < scenario.LastRun(); ++run) {
    const auto plan = scenario.Plan(run);
    const auto is_over = [&] { return mailbox.over.value.load() > run; };
    for (std::uint32_t bucket = 0; bucket < plan.buckets.size(); ++bucket) {
      if (!AwaitAtLeast(mailbox.delivered, Tag(run, bucket + 1), is_over)) break;
      // Once the run failed, the ring holds anything.
      if (is_over()) break;
      if (scenario.worker_pause_us > 0) usleep(static_cast<useconds_t>(random() % scenario.worker_pause_us));
      if (scenario.FaultIn(run) &&
          (is_over() || scenario.fault == Scenario::Fault::kAbort || scenario.fault == Scenario::Fault::kDestroy)) {
        // Nothing protects the bytes from a run that is being given up.
      } else if (const auto difference = plan.Check(bucket, ring.data); !difference.empty()) {
        memory.Fail("member " + std::to_string(member) + ", run " + std::to_string(run) + ": " + difference);
      }
      const bool stalls = scenario.fault == Scenario::Fault::kStall && scenario.FaultIn(run) && member == kFaultyMember;
      if (stalls && bucket >= kFaultAfter) break;
      mailbox.released.Publish(Tag(run, bucket + 1));
    }
    AwaitAtLeast(mailbox.over, run + 1, [] { return false; });
  }
}

void CheckStats(const Scenario& scenario, const SharedMemory& memory, const RandomPlan& plan, std::uint32_t member,
                const PipelineStats& stats) {
  std::uint64_t own = 0, copied = 0, foreign = 0;
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    (plan.buckets[b].owner == member ? own : foreign) += plan.buckets[b].bytes;
    for (const auto& piece : plan.copies[b]) copied += plan.buckets[b].owner == member ? piece.bytes : 0;
  }
  if (stats.h2d_bytes != copied)
    memory.Fail("H2D moved " + std::to_string(stats.h2d_bytes) + " bytes, not " + std::to_string(copied));
  if (stats.broadcast_bytes != foreign) memory.Fail("broadcast moved " + std::to_string(stats.broadcast_bytes) + " bytes");
  if (stats.spans.size() != plan.buckets.size()) memory.Fail("there must be one span a bucket");
  if (!scenario.serial) return;
  auto spans = stats.spans;
  std::sort(spans.begin(), spans.end(), [](const StageSpan& a, const StageSpan& b) { return a.bucket < b.bucket; });
  for (std::size_t i = 1; i < spans.size(); ++i) {
    if (spans[i].start < spans[i - 1].end) memory.Fail("serial buckets overlap in time");
  }
}

/// Whether a failed run ended as its fault demands.
void CheckFailure(const Scenario& scenario, const SharedMemory& memory, std::uint32_t member, const Error& failure) {
  using Fault = Scenario::Fault;
  const std::string what = failure.code() + ", member " + std::to_string(failure.member()) + ", " + failure.what();
  const bool timeout = failure.code() == code::kTimeout;
  const bool given_up = scenario.fault == Fault::kAbort || scenario.fault == Fault::kDestroy;
  if (timeout) memory->timeouts.fetch_add(1);
  if (given_up && timeout) memory.Fail("an abort must reach every member before its timeout: " + what);
  if (given_up && member != kFaultyMember && failure.member() != kFaultyMember)
    memory.Fail("the member that gave up is not named: " + what);
  if (!given_up && timeout && failure.member() != kFaultyMember) memory.Fail("the wrong member is named: " + what);
  if (!given_up && what.find("member 1") == std::string::npos) memory.Fail("the member at fault is not in the text: " + what);
}

/// One run of a member; forwards the worker's releases, as a rank's JavaScript thread does.
void RunOnce(const Scenario& scenario, const SharedMemory& memory, std::uint32_t member, std::uint32_t run) {
  using Fault = Scenario::Fault;
  auto& mailbox = memory->mailboxes[member];
  const auto plan = scenario.Plan(run);
  const auto sources = plan.Sources(member);
  PipelineSpec spec;
  plan.Describe(member, spec);
  for (std::uint32_t i = 0; i < memory.members(); ++i) spec.rings.push_back(memory.Ring(i));
  for (const auto& source : sources) {
    spec.sources.push_back({reinterpret_cast<const std::byte*>(source.data()), source.size(), nullptr});
  }
  spec.chunk_bytes = scenario.chunk_bytes;
  spec.serial = scenario.serial;
  spec.stores = scenario.stores;
  spec.timeout_ms = scenario.timeout_ms;
  spec.generation = run + 1;

  std::atomic<bool> finished{false};
  std::optional<Error> failure;
  PipelineStats stats;
  auto pipeline = std::make_unique<Pipeline>(
      PreparePipeline(std::move(spec)),
      PipelineEvents{[&](std::uint32_t bucket) { mailbox.delivered.Publish(Tag(run, std::uint64_t{bucket} + 1)); },
                     [&](std::optional<Error> error, PipelineStats ended) {
                       failure = std::move(error);
                       stats = std::move(ended);
                       finished.store(true);
                       mailbox.released.Wake();
                     }});
  const bool faulty = scenario.FaultIn(run) && member == kFaultyMember;
  std::uint64_t released = Tag(run, 0);
  while (!finished.load()) {
    AwaitAtLeast(mailbox.released, released + 1, [&] { return finished.load(); });
    const auto now = mailbox.released.value.load();
    if (now > released) pipeline->Release(static_cast<std::uint32_t>(now - Tag(run, 0) - 1));
    released = std::max(released, now);
    if (!faulty || released < Tag(run, kFaultAfter)) continue;
    if (scenario.fault == Fault::kKill) kill(getpid(), SIGKILL);
    if (scenario.fault == Fault::kAbort) pipeline->Abort(Error(code::kAborted, "told to"));
    if (scenario.fault == Fault::kDestroy) pipeline.reset();
  }
  pipeline.reset();
  if (failure && !scenario.FaultIn(run)) memory.Fail(failure->code() + ": " + failure->what());
  if (!failure && scenario.FaultIn(run)) memory.Fail("the run must fail at member " + std::to_string(member));
  if (failure) {
    CheckFailure(scenario, memory, member, *failure);
  } else {
    CheckStats(scenario, memory, plan, member, stats);
  }
}

void Member(const Scenario& scenario, const SharedMemory& memory, std::uint32_t member) {
  for (std::uint32_t run = 0; run < scenario.LastRun(); ++run) {
    memory.Barrier(run, memory.members());
    RunOnce(scenario, memory, member, run);
    memory->mailboxes[member].over.Publish(run + 1);
  }
}

bool Run(const Scenario& scenario) {
  const SharedMemory memory(scenario.plan.members, scenario.plan.ring_bytes);
  std::vector<std::function<void()>> tasks;
  for (std::uint32_t i = 0; i < scenario.plan.members; ++i) tasks.emplace_back([&, i] { Member(scenario, memory, i); });
  for (std::uint32_t i = 0; i < scenario.plan.members; ++i) {
    // Nobody tells the worker of a member that is killed that the run is over.
    if (scenario.fault == Scenario::Fault::kKill && i == kFaultyMember) {
      tasks.emplace_back([&, i] {
        std::thread([&, i] { Worker(scenario, memory, i); }).detach();
        for (std::uint32_t other = 0; other < memory.members(); ++other) {
          if (other != i) AwaitAtLeast(memory->mailboxes[other].over, scenario.LastRun(), [] { return false; });
        }
        _exit(0);
      });
    } else {
      tasks.emplace_back([&, i] { Worker(scenario, memory, i); });
    }
  }
  if (scenario.processes) {
    RunProcesses(memory, tasks, scenario.fault == Scenario::Fault::kKill ? static_cast<int>(kFaultyMember) : -1);
  } else {
    RunThreads(tasks);
  }
  const bool must_time_out = scenario.fault == Scenario::Fault::kKill || scenario.fault == Scenario::Fault::kStall;
  if (must_time_out && memory->timeouts.load() == 0) memory.Fail("no member ended by its timeout");
  return memory->failures.load() == 0;
}

std::vector<Scenario> Scenarios(std::uint64_t seed) {
  using Fault = Scenario::Fault;
  std::vector<Scenario> all;
  for (const bool processes : {true, false}) {
    const std::string how = processes ? "processes" : "threads";
    for (const std::uint32_t members : {1u, 2u, 3u, 4u}) {
      all.push_back(
          {"random plans, " + std::to_string(members) + " " + how, {members, 1 << 17, 1 << 15, 120, seed}, 3, processes});
    }
    const RandomPlan::Options three{3, 1 << 16, 1 << 14, 60, seed + 1};
    Scenario slow{"slow workers, " + how, {3, 3 << 14, 1 << 14, 60, seed + 2}, 2, processes};
    slow.worker_pause_us = 4000;
    all.push_back(slow);
    Scenario serial{"serial, " + how, {3, 1 << 14, 1 << 14, 60, seed + 3}, 2, processes};
    serial.serial = true;
    all.push_back(serial);
    Scenario large{"buckets of many chunks, " + how, {2, 12 << 20, 4 << 20, 16, seed + 4}, 2, processes};
    large.chunk_bytes = 300'001;
    all.push_back(large);
    large.name = "stores past the caches, " + how;
    large.stores = RingStores::kNonTemporal;
    all.push_back(large);
    all.push_back({"ring used by many runs, " + how, {3, 1 << 15, 1 << 13, 25, seed + 5}, 12, processes});
    for (const auto& [fault, name] : {std::pair{Fault::kAbort, "abort in the middle"},
                                      {Fault::kDestroy, "closed in the middle"},
                                      {Fault::kKill, "member killed"},
                                      {Fault::kStall, "worker that never releases"}}) {
      if (fault == Fault::kKill && !processes) continue;
      Scenario faulty{std::string(name) + ", " + how, three, 4, processes};
      faulty.fault = fault;
      faulty.worker_pause_us = 500;
      if (fault == Fault::kKill || fault == Fault::kStall) faulty.timeout_ms = 1500;
      all.push_back(faulty);
    }
  }
  return all;
}

void TestNamed(const std::string& name) {
  for (const auto& scenario : Scenarios(1)) {
    if (scenario.name != name) continue;
    REQUIRE(Run(scenario));
    return;
  }
  FAIL("there is no scenario " << name);
}

/// A test of the scenario's name, so that each runs in a process of its own.
#define TEST_SCENARIO(name) \
  TEST_CASE("pipeline: " name) { TestNamed(name); }

TEST_SCENARIO("random plans, 1 processes")
TEST_SCENARIO("random plans, 2 processes")
TEST_SCENARIO("random plans, 3 processes")
TEST_SCENARIO("random plans, 4 processes")
TEST_SCENARIO("slow workers, processes")
TEST_SCENARIO("serial, processes")
TEST_SCENARIO("buckets of many chunks, processes")
TEST_SCENARIO("stores past the caches, processes")
TEST_SCENARIO("ring used by many runs, processes")
TEST_SCENARIO("abort in the middle, processes")
TEST_SCENARIO("closed in the middle, processes")
TEST_SCENARIO("member killed, processes")
TEST_SCENARIO("worker that never releases, processes")
TEST_SCENARIO("random plans, 1 threads")
TEST_SCENARIO("random plans, 2 threads")
TEST_SCENARIO("random plans, 3 threads")
TEST_SCENARIO("random plans, 4 threads")
TEST_SCENARIO("slow workers, threads")
TEST_SCENARIO("serial, threads")
TEST_SCENARIO("buckets of many chunks, threads")
TEST_SCENARIO("stores past the caches, threads")
TEST_SCENARIO("ring used by many runs, threads")
TEST_SCENARIO("abort in the middle, threads")
TEST_SCENARIO("closed in the middle, threads")
TEST_SCENARIO("worker that never releases, threads")

TEST_CASE("pipeline: every scenario has a test") { REQUIRE(Scenarios(1).size() == 25); }

}  // namespace
}  // namespace ckpt::host::test
