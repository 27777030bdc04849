#include "available.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "ckpt/error.h"

namespace ckpt::host {
namespace {

constexpr std::uint64_t kUnknown = std::numeric_limits<std::uint64_t>::max();

/// The number after `key` in a file of "key number" lines, times `unit`.
std::uint64_t Field(const char* path, const std::string& key, std::uint64_t unit) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t value = 0;
  while (file >> word) {
    if (word == key && file >> value) return value * unit;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return kUnknown;
}

std::uint64_t Number(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : kUnknown;  // "max" means no limit
}

/// What the control group at the root of our view (a container's own) leaves; page cache that can be dropped counts as free.
std::uint64_t GroupBytes() {
  const std::uint64_t limit = Number("/sys/fs/cgroup/memory.max");
  const std::uint64_t used = Number("/sys/fs/cgroup/memory.current");
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  const std::uint64_t cache = Field("/sys/fs/cgroup/memory.stat", "inactive_file", 1);
  const std::uint64_t held = cache == kUnknown ? used : used - std::min(used, cache);
  return limit - std::min(limit, held);
}

}  // namespace

std::uint64_t AvailableBytes() { return std::min(Field("/proc/meminfo", "MemAvailable:", 1024), GroupBytes()); }

void RequireAvailable(std::uint64_t bytes) {
  const std::uint64_t available = AvailableBytes();
  if (bytes <= available) return;
  throw Error(code::kOutOfMemory,
              std::to_string(bytes) + " bytes of memory were asked for and " + std::to_string(available) + " are available");
}

}  // namespace ckpt::host
