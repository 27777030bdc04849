#include "memory_groups.h"

#include <algorithm>
#include <string>
#include <vector>

#include "ckpt/control_group.h"

namespace ckpt::host {
namespace {

/// Memory use of a group, without the page cache that the kernel can drop immediately. kNone if unknown.
std::uint64_t UsedIn(const std::string& directory, const char* usage, const char* droppable) {
  const std::uint64_t used = NumberIn(directory + usage);
  if (used == Limit::kNone) return used;
  const std::uint64_t cache = FieldIn(directory + "/memory.stat", droppable);
  return cache == Limit::kNone ? used : used - std::min(used, cache);
}

void Add(std::vector<Limit>& limits, const std::string& file, const std::string& name, std::uint64_t bytes,
         std::uint64_t used) {
  if (bytes == Limit::kNone) return;
  // Without the usage, all of it may be free: a limit that is too high is better than none.
  const std::uint64_t known = used == Limit::kNone ? 0 : used;
  limits.push_back({file, name, bytes, known, bytes - std::min(bytes, known)});
}

void AddVersion2(std::vector<Limit>& limits, const std::string& root, const std::string& directory) {
  const std::uint64_t used = UsedIn(root + directory, "/memory.current", "inactive_file");
  for (const char* file : {"/memory.max", "/memory.high"})
    Add(limits, directory + file, "", NumberIn(root + directory + file), used);
}

void AddVersion1(std::vector<Limit>& limits, const std::string& root, const std::string& directory) {
  const std::uint64_t used = UsedIn(root + directory, "/memory.usage_in_bytes", "total_inactive_file");
  const std::string file = directory + "/memory.limit_in_bytes";
  Add(limits, file, "", NumberIn(root + file), used);
}

/// Limits of groups above the topmost visible one; their usage is unknown, but includes that of the topmost one.
void AddHidden(std::vector<Limit>& limits, const std::string& root, const std::string& topmost) {
  const std::string file = topmost + "/memory.stat";
  const std::uint64_t bytes = FieldIn(root + file, "hierarchical_memory_limit");
  const bool seen = std::any_of(limits.begin(), limits.end(), [&](const Limit& limit) { return limit.bytes <= bytes; });
  if (!seen)
    Add(limits, file, "hierarchical_memory_limit", bytes,
        UsedIn(root + topmost, "/memory.usage_in_bytes", "total_inactive_file"));
}

void AddGroup(std::vector<Limit>& limits, const std::string& root, const ControlGroup& group) {
  std::vector<Limit> found;
  std::string topmost = group.directory;
  for (const std::string& directory : group.Lineage()) {
    if (group.version == 2) {
      AddVersion2(found, root, directory);
      continue;
    }
    // Without use_hierarchy a group's memory is not counted in its ancestors.
    if (directory != group.directory && NumberIn(root + directory + "/memory.use_hierarchy") == 0) break;
    AddVersion1(found, root, directory);
    topmost = directory;
  }
  if (group.version == 1) AddHidden(found, root, topmost);
  limits.insert(limits.end(), found.begin(), found.end());
}

}  // namespace

std::vector<Limit> GroupMemoryLimits(const std::string& root) {
  std::vector<Limit> limits;
  for (const ControlGroup& group : ControlGroupsOf("memory", root)) AddGroup(limits, root, group);
  return limits;
}

}  // namespace ckpt::host
