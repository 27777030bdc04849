// What happens when a member dies, is late for ever, or somebody gives up.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "ckpt/error.h"
#include "member.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

Plan FaultPlan(std::uint32_t size) {
  Plan plan;
  plan.ring_bytes = 256 << 20;
  plan.chunk_bytes = 8 << 20;
  constexpr std::uint64_t kBucket = 32 << 20;
  for (std::int32_t b = 0; b < 64; b++) {
    plan.buckets.push_back(
        {static_cast<std::uint32_t>(b) % size, kBucket, static_cast<std::uint64_t>(b % 8) * kBucket, b < 8 ? -1 : b - 8});
    plan.copies.push_back({{0, 0, 0, kBucket}});
  }
  return plan;
}

/// Threads, descriptors and device memory of this process, in words.
std::string Usage(const Member& member) {
  const auto count = [](const char* folder) {
    return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
  };
  return std::to_string(count("/proc/self/task")) + " threads, " + std::to_string(count("/proc/self/fd")) + " descriptors, " +
         std::to_string(QueryMemory(*member.context).free >> 20) + " MiB free, " +
         std::to_string(Communicator::AbortsUnderWay()) + " aborts under way";
}

/// What each thread of this process waits in.
void PrintThreads() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name, wait, call;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    std::getline(std::ifstream(entry.path() / "wchan"), wait);
    std::getline(std::ifstream(entry.path() / "syscall"), call);
    std::printf("    %s: %s, call %s\n", name.c_str(), wait.c_str(), call.substr(0, 24).c_str());
  }
}

}  // namespace

/// Runs that are aborted on both sides at different times, again and again: nothing may be left of them.
int RunAborts(Member& member) {
  Pinned source(member.context, member.pool, 32 << 20, 1);
  auto ring = std::make_shared<DeviceMemory>(member.context, 256 << 20);
  const Plan plan = FaultPlan(member.size);
  std::mt19937 random(member.position);
  constexpr int kRounds = 8;
  for (int round = 0; round < kRounds; round++) {
    member.Join(round);
    std::thread helper;
    const Outcome outcome =
        member.Run(plan.JobOf(member.position, member.size, {{source.data(), source.bytes(), source.slice_bytes()}}, 5000),
                   ring, [&](std::uint32_t b, Pipeline& pipeline) {
                     if (b == 0) {
                       helper = std::thread([&, pipeline = pipeline.shared_from_this()] {
                         std::this_thread::sleep_for(std::chrono::microseconds(random() % 15000));
                         pipeline->Abort(ckpt::Error(ckpt::code::kRankLost, "the check says so"));
                       });
                     }
                     pipeline.Release(b);
                   });
    helper.join();
    const auto start = Clock::now();
    const bool given_back = member.communicator->Close(std::chrono::seconds(3));
    std::printf("[%u] round %d: %s, given back %s after %.0f ms; %s\n", member.position, round,
                outcome.failure ? "aborted" : "finished first", given_back ? "yes" : "NO", Seconds(Clock::now() - start) * 1e3,
                Usage(member).c_str());
    member.communicator = nullptr;
    Barrier(member.board, round, static_cast<int>(member.size));
  }
  if (Communicator::AbortsUnderWay() > 0 && member.position == 0) PrintThreads();
  return 0;
}

/// Kinds: `kill` member 1 dies, member 0 is told after 300 ms; `lost` it dies and only the deadline tells; `stuck` member 1's
/// worker never releases; `abort` member 0 gives up while member 1 waits. `again` is a plain run.
int RunFault(Member& member, const std::string& kind) {
  if (kind != "again") std::printf("[%u] fault: %s\n", member.position, kind.c_str());
  member.Join(0);
  Pinned source(member.context, member.pool, 32 << 20, 1);
  auto ring = std::make_shared<DeviceMemory>(member.context, 256 << 20);
  const Plan plan = FaultPlan(member.size);
  const int timeout_ms = 2000;
  Clock::time_point trouble;
  std::thread helper;
  const Outcome outcome =
      member.Run(plan.JobOf(member.position, member.size, {{source.data(), source.bytes(), source.slice_bytes()}}, timeout_ms),
                 ring, [&](std::uint32_t b, Pipeline& pipeline) {
                   if (b == 20 && kind != "again") {
                     trouble = Clock::now();
                     if (member.position == 1 && (kind == "kill" || kind == "lost")) {
                       member.board.dead[1].store(1);
                       kill(getpid(), SIGKILL);
                     }
                     if (member.position == 0 && (kind == "kill" || kind == "abort")) {
                       helper = std::thread([&, pipeline = pipeline.shared_from_this()] {
                         const auto patience = Clock::now();
                         while (kind == "kill" && member.board.dead[1].load() == 0 && Seconds(Clock::now() - patience) < 5) {
                           std::this_thread::sleep_for(std::chrono::milliseconds(1));
                         }
                         std::this_thread::sleep_for(std::chrono::milliseconds(300));
                         trouble = Clock::now();
                         pipeline->Abort(ckpt::Error(ckpt::code::kRankLost, "the check says so"));
                       });
                     }
                     if (member.position == 1 && (kind == "stuck" || kind == "abort")) return;
                   }
                   if (b > 20 && member.position == 1 && (kind == "stuck" || kind == "abort")) return;
                   pipeline.Release(b);
                 });
  if (helper.joinable()) helper.join();
  const double took = Seconds(Clock::now() - trouble);
  if (kind == "again") {
    Require(!outcome.failure, outcome.failure ? outcome.failure->what() : "");
    std::printf("[%u] a run after the fault: ok\n", member.position);
    return 0;
  }
  Require(outcome.failure.has_value(), "the survivor gets an error");
  std::printf("[%u] %s after %.0f ms: %s: %s\n", member.position, kind.c_str(), took * 1e3, outcome.failure->code().c_str(),
              outcome.failure->what());
  const bool told = member.position == 0 && (kind == "kill" || kind == "abort");
  Require(took < (told ? 1.0 : 5.0), "the error comes in time");
  Require(outcome.failure->code() == (told ? ckpt::code::kRankLost : ckpt::code::kTimeout), "the error's code");
  // The same process goes on with a new communicator (with a new peer where the old one died).
  member.communicator = nullptr;
  member.Join(1);
  const Outcome next =
      member.Run(plan.JobOf(member.position, member.size, {{source.data(), source.bytes(), source.slice_bytes()}}, timeout_ms),
                 ring, [](std::uint32_t b, Pipeline& pipeline) { pipeline.Release(b); });
  Require(!next.failure, next.failure ? next.failure->what() : "");
  std::printf("[%u] the next run of the same process: ok\n", member.position);
  return 0;
}

}  // namespace check
