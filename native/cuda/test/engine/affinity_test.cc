// Lists of CPUs and nodes, and binding to them, on whatever machine this is.
#include "ckpt/affinity.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

std::vector<int> AllowedHere() {
  cpu_set_t set;
  REQUIRE_MESSAGE(sched_getaffinity(0, sizeof set, &set) == 0, "the system tells the thread's CPUs");
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void CheckLists() {
  using List = std::vector<int>;
  REQUIRE_MESSAGE(ckpt::ParseList("0-3,8,10-11\n") == List({0, 1, 2, 3, 8, 10, 11}), "ranges and numbers");
  REQUIRE_MESSAGE(ckpt::ParseList("7") == List({7}), "one number");
  REQUIRE_MESSAGE((ckpt::ParseList("").empty() && ckpt::ParseList("\n").empty()), "nothing");
  for (const char* wrong : {"a", "1-", "-1", "3-1", "1,", "1,,2", "1 2", "0-99999999999", "1-2-3"}) {
    REQUIRE_MESSAGE(ckpt::ParseList(wrong).empty(), wrong);
  }
  REQUIRE_MESSAGE(ckpt::NodeCount() >= 1, "there is a memory node");
}

void CheckThreads() {
  const std::vector<int> all = AllowedHere();
  std::thread([&] {
    REQUIRE_MESSAGE(ckpt::BindThread({all.back(), 1 << 19}), "a CPU of several");
    REQUIRE_MESSAGE(AllowedHere() == std::vector<int>({all.back()}), "the thread may run there alone");
    REQUIRE_MESSAGE((!ckpt::BindThread({1 << 19}) && !ckpt::BindThread({}) && !ckpt::BindThread({-1})),
                    "CPUs that are not there");
    REQUIRE_MESSAGE(AllowedHere() == std::vector<int>({all.back()}), "nothing has changed");
    if (all.size() > 1) REQUIRE_MESSAGE(!ckpt::BindThread({all.front()}), "not beyond what the thread may use");
  }).join();
  REQUIRE_MESSAGE(AllowedHere() == all, "other threads are as they were");
}

/// Memory of the policy's own node; a sandbox may refuse the call.
void CheckMemory() {
  constexpr std::size_t kBytes = 1 << 20;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE_MESSAGE(memory != MAP_FAILED, "mmap");
  const int result = ckpt::PreferNode(memory, kBytes, 0);
  REQUIRE_MESSAGE((result == 0 || result == EPERM || result == ENOSYS), "node 0 can be preferred");
  if (result == 0) {
    int mode = -1;
    unsigned long mask[16] = {};
    constexpr unsigned long kPolicyOfAddress = 2;  // MPOL_F_ADDR
    REQUIRE_MESSAGE(syscall(SYS_get_mempolicy, &mode, mask, sizeof mask * 8, memory, kPolicyOfAddress) == 0,
                    "the policy is told");
    REQUIRE_MESSAGE((mode == MPOL_PREFERRED && mask[0] == 1), "the policy is the one that was set");
    REQUIRE_MESSAGE(ckpt::PreferNode(memory, kBytes, 1000) != 0, "a node that is not there");
  }
  REQUIRE_MESSAGE(ckpt::PreferNode(memory, kBytes, -1) == EINVAL, "no node");
  static_cast<char*>(memory)[kBytes - 1] = 1;
  munmap(memory, kBytes);
  if (result != 0) MESSAGE("refused here by the system");
}

}  // namespace

TEST_CASE("affinity: lists") { CheckLists(); }
TEST_CASE("affinity: threads") { CheckThreads(); }
TEST_CASE("affinity: memory prefers a node") { CheckMemory(); }
