#pragma once

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace ckpt {

/// Parses a list in the kernel's form, for CPUs and for nodes ("0-15,32,40-43"); empty for any other text.
inline std::vector<int> ParseList(const std::string& text) {
  constexpr long kMost = 1 << 20;
  std::vector<int> numbers;
  const char* at = text.c_str();
  const auto number = [&at](long& value) {
    char* end = nullptr;
    if (*at < '0' || *at > '9') return false;
    value = std::strtol(at, &end, 10);
    at = end;
    return value < kMost;
  };
  while (*at != '\0' && *at != '\n') {
    long first = 0, last = 0;
    if (!number(first)) return {};
    last = first;
    if (*at == '-' && (++at, !number(last))) return {};
    if (last < first) return {};
    for (long i = first; i <= last; i++) numbers.push_back(static_cast<int>(i));
    if (*at == ',') {
      if (*++at == '\0' || *at == '\n') return {};
    } else if (*at != '\0' && *at != '\n') {
      return {};
    }
  }
  return numbers;
}

/// Returns the number of the machine's memory nodes; at least one.
inline std::size_t NodeCount() {
  std::ifstream file("/sys/devices/system/node/online");
  std::string line;
  std::getline(file, line);
  const std::size_t count = ParseList(line).size();
  return count == 0 ? 1 : count;
}

/// Confines the calling thread to those of `cpus` that it may run on now. Returns false without a change if there are none or
/// the kernel refuses: that costs speed, not correctness.
inline bool BindThread(const std::vector<int>& cpus) {
  // The kernel rejects a mask that is too short for the machine.
  for (int count = CPU_SETSIZE; count <= (1 << 20); count *= 2) {
    const std::size_t bytes = CPU_ALLOC_SIZE(count);
    struct Sets {
      cpu_set_t* allowed;
      cpu_set_t* wanted;
      ~Sets() {
        CPU_FREE(allowed);
        CPU_FREE(wanted);
      }
    } const sets{CPU_ALLOC(count), CPU_ALLOC(count)};
    if (sets.allowed == nullptr || sets.wanted == nullptr) return false;
    if (sched_getaffinity(0, bytes, sets.allowed) != 0) {
      if (errno == EINVAL) continue;
      return false;
    }
    CPU_ZERO_S(bytes, sets.wanted);
    bool any = false;
    for (const int cpu : cpus) {
      if (cpu < 0 || cpu >= count || !CPU_ISSET_S(static_cast<std::size_t>(cpu), bytes, sets.allowed)) continue;
      CPU_SET_S(static_cast<std::size_t>(cpu), bytes, sets.wanted);
      any = true;
    }
    return any && sched_setaffinity(0, bytes, sets.wanted) == 0;
  }
  return false;
}

/// Makes missing pages of a mapping come from memory node `node` while it has free ones, from others after that. `address` is a
/// page's start. Returns 0, or the kernel's error number: that costs speed, not correctness.
inline int PreferNode(void* address, std::size_t bytes, int node) {
  constexpr std::size_t kBits = sizeof(unsigned long) * CHAR_BIT;
  if (node < 0) return EINVAL;
  std::vector<unsigned long> mask(static_cast<std::size_t>(node) / kBits + 1, 0);
  mask[static_cast<std::size_t>(node) / kBits] |= 1ul << (static_cast<std::size_t>(node) % kBits);
  // The kernel reads one bit less than the given number.
  const unsigned long bits = mask.size() * kBits + 1;
  return syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, mask.data(), bits, 0u) == 0 ? 0 : errno;
}

}  // namespace ckpt
