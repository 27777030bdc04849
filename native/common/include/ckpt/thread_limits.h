#pragma once

#include <sys/resource.h>

#include <fstream>
#include <string>

#include "ckpt/control_group.h"

namespace ckpt {

/// Describes, for people, the limits on this process's threads: the control groups' pids.max with its file, and RLIMIT_NPROC.
/// Empty if neither is set. `root` is prepended to every path that is read, for tests.
inline std::string ThreadLimitsText(const std::string& root = "") {
  std::string text;
  const auto add = [&text](const std::string& limit) { text += (text.empty() ? "" : "; ") + limit; };
  for (const ControlGroup& group : ControlGroupsOf("pids", root)) {
    for (const std::string& directory : group.Lineage()) {
      std::ifstream limit_file(root + directory + "/pids.max"), used_file(root + directory + "/pids.current");
      unsigned long long limit = 0, used = 0;
      if (!(limit_file >> limit)) continue;  // "max"
      const bool known = static_cast<bool>(used_file >> used);
      add(directory + "/pids.max is " + std::to_string(limit) + (known ? ", " + std::to_string(used) + " of it used" : ""));
    }
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    add("RLIMIT_NPROC (Max processes in /proc/self/limits) is " + std::to_string(limit.rlim_cur));
  return text;
}

}  // namespace ckpt
