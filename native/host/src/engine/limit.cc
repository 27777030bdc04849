#include "limit.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "memory_groups.h"

namespace ckpt::host {
namespace {

/// An exbibyte. Version 1 reports 2^63 minus a page if there is no limit, and some tools write other large numbers.
constexpr std::uint64_t kBeyondAnyMachine = std::uint64_t{1} << 60;

/// Interprets a text that was read as a number; limits that no machine reaches count as none.
std::uint64_t ToNumber(const std::string& word) {
  if (word.empty() || word[0] < '0' || word[0] > '9') return Limit::kNone;
  errno = 0;
  char* end = nullptr;
  const unsigned long long value = std::strtoull(word.c_str(), &end, 10);
  if (errno == ERANGE || *end != '\0' || value >= kBeyondAnyMachine) return Limit::kNone;
  return value;
}

/// Pages of /proc/self/statm in its column `column`, in bytes.
std::uint64_t StatmBytes(unsigned column) {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0;
  for (unsigned i = 0; i <= column; i++) {
    if (!(file >> pages)) return Limit::kNone;
  }
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

void AddProcessLimit(std::vector<Limit>& limits, const char* name, __rlimit_resource_t resource, unsigned statm_column) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const std::uint64_t used = StatmBytes(statm_column);
  if (used == Limit::kNone) return;  // no /proc: the kernel itself will refuse
  const std::uint64_t bytes = limit.rlim_cur;
  limits.push_back({"/proc/self/limits", name, bytes, used, bytes - std::min(bytes, used)});
}

}  // namespace

std::string SizeText(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // 1023.95 would be printed as 1024.0.
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    unit++;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string Limit::Text() const {
  const std::string what = name.empty() ? file : name + " in " + file;
  if (bytes == kNone) return what + " says that " + SizeText(available) + " are available";
  return what + " is " + SizeText(bytes) + ", " + SizeText(used) + " of it used";
}

std::uint64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  return file >> word ? ToNumber(word) : Limit::kNone;
}

std::uint64_t FieldIn(const std::string& path, const std::string& key, std::uint64_t unit) {
  std::ifstream file(path);
  std::string word, value;
  while (file >> word) {
    if (word == key && file >> value) {
      const std::uint64_t number = ToNumber(value);
      return number > Limit::kNone / unit ? Limit::kNone : number * unit;
    }
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return Limit::kNone;
}

std::vector<Limit> MemoryLimits(const std::string& root) {
  std::vector<Limit> limits = GroupMemoryLimits(root);
  const std::uint64_t available = FieldIn(root + "/proc/meminfo", "MemAvailable:", 1024);
  if (available != Limit::kNone) limits.push_back({"/proc/meminfo", "MemAvailable", Limit::kNone, 0, available});
  std::stable_sort(limits.begin(), limits.end(), [](const Limit& a, const Limit& b) { return a.available < b.available; });
  return limits;
}

std::vector<Limit> AddressSpaceLimits(bool private_memory) {
  std::vector<Limit> limits;
  AddProcessLimit(limits, "Max address space", RLIMIT_AS, 0);
  if (private_memory) AddProcessLimit(limits, "Max data size", RLIMIT_DATA, 5);
  return limits;
}

}  // namespace ckpt::host
