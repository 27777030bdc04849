#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace ckpt::host {

/// A limit on the memory of this process, and how much of it is used.
struct Limit {
  static constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

  /// File that contains the number.
  std::string file;
  /// Name of the number in that file, if the file contains several; otherwise empty.
  std::string name;
  /// kNone if only the available amount is known.
  std::uint64_t bytes = kNone;
  std::uint64_t used = 0;
  std::uint64_t available = kNone;

  /// Readable text: "/sys/fs/cgroup/a/memory.max is 2.0 GiB, 1.9 GiB of it used".
  std::string Text() const;
};

/// "1.5 GiB", "17 bytes".
std::string SizeText(std::uint64_t bytes);

/// The integer at the beginning of a file; kNone for "max", for -1, from an exbibyte on, and if there is none.
std::uint64_t NumberIn(const std::string& path);

/// The number after `key` in a file of "key number" lines, times `unit`; kNone if there is none.
std::uint64_t FieldIn(const std::string& path, const std::string& key, std::uint64_t unit = 1);

/// Limits on all memory: what the kernel estimates to be available (/proc/meminfo), and every control group that this process
/// is in. The strictest first. `root` is prepended to every path that is read, for tests.
std::vector<Limit> MemoryLimits(const std::string& root = "");

/// Limits of the process on its address space (RLIMIT_AS) and, if requested, on private memory (RLIMIT_DATA).
std::vector<Limit> AddressSpaceLimits(bool private_memory);

}  // namespace ckpt::host
