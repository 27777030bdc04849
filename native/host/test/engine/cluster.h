#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "ring.h"

namespace ckpt::host::test {

inline constexpr std::uint32_t kMostMembers = 8;

/// How a member and its worker talk: run << 32 | number of buckets.
struct Mailbox {
  RingCounter delivered;
  RingCounter released;
  /// Runs that are over at this member, whether well or not.
  RingCounter over;
};

/// Memory that all processes of one test share, rings included.
struct Shared {
  Mailbox mailboxes[kMostMembers];
  std::atomic<std::uint64_t> arrivals{0};
  std::atomic<std::uint32_t> failures{0};
  std::atomic<std::uint32_t> timeouts{0};
  std::atomic<std::uint32_t> delivered_at_death{0};
};

/// The shared memory of a test, mapped before anything is forked.
class SharedMemory {
 public:
  SharedMemory(std::uint32_t members, std::uint64_t ring_bytes) : members_(members) {
    ring_stride_ = kRingDataOffset + (ring_bytes + 4095) / 4096 * 4096;
    bytes_ = kRingDataOffset + members * ring_stride_;
    void* base = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) std::abort();
    base_ = static_cast<std::byte*>(base);
    shared_ = new (base_) Shared();
    for (std::uint32_t i = 0; i < members; ++i) InitialiseRing(RingBase(i), ring_bytes);
  }
  ~SharedMemory() { munmap(base_, bytes_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  Shared& operator*() const { return *shared_; }
  Shared* operator->() const { return shared_; }
  std::uint32_t members() const { return members_; }
  RingView Ring(std::uint32_t member) const { return ViewRing(RingBase(member), ring_stride_, nullptr).value(); }

  /// Counts a failure and says what it was.
  void Fail(const std::string& what) const {
    shared_->failures.fetch_add(1);
    std::fprintf(stderr, "    %s\n", what.c_str());
  }

  /// Waits until `parties` have come to barrier number `round`, 0, 1, 2 …
  void Barrier(std::uint64_t round, std::uint64_t parties) const {
    shared_->arrivals.fetch_add(1);
    while (shared_->arrivals.load() < (round + 1) * parties) std::this_thread::sleep_for(std::chrono::microseconds(500));
  }

 private:
  std::byte* RingBase(std::uint32_t member) const { return base_ + kRingDataOffset + member * ring_stride_; }

  std::uint32_t members_;
  std::size_t ring_stride_ = 0;
  std::size_t bytes_ = 0;
  std::byte* base_ = nullptr;
  Shared* shared_ = nullptr;
};

/// Runs every task as a process of its own and waits for all. A process may end by SIGKILL where `may_die` says so.
inline void RunProcesses(const SharedMemory& memory, const std::vector<std::function<void()>>& tasks, int may_die) {
  std::fflush(nullptr);
  std::vector<pid_t> children;
  for (const auto& task : tasks) {
    const auto child = fork();
    if (child == 0) {
      alarm(180);
      task();
      std::exit(0);
    }
    children.push_back(child);
  }
  for (std::size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    waitpid(children[i], &status, 0);
    const bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && static_cast<int>(i) == may_die;
    if (status != 0 && !died) memory.Fail("process " + std::to_string(i) + " ended with status " + std::to_string(status));
  }
}

/// Runs every task as a thread, so that a race detector sees all of them.
inline void RunThreads(const std::vector<std::function<void()>>& tasks) {
  std::vector<std::thread> threads;
  for (const auto& task : tasks) threads.emplace_back(task);
  for (auto& thread : threads) thread.join();
}

}  // namespace ckpt::host::test
