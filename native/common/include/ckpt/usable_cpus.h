#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "ckpt/control_group.h"

namespace ckpt {

/// Returns the CPU time, in CPUs, that one directory of a control group allows; infinity without a quota.
inline double CpusIn(const std::string& directory, int version) {
  constexpr double kAny = std::numeric_limits<double>::infinity();
  double quota = 0, period = 0;
  if (version == 2) {
    std::ifstream file(directory + "/cpu.max");  // "max 100000" without a quota
    if (!(file >> quota >> period)) return kAny;
  } else {
    std::ifstream quota_file(directory + "/cpu.cfs_quota_us"), period_file(directory + "/cpu.cfs_period_us");  // -1 without one
    if (!(quota_file >> quota) || !(period_file >> period)) return kAny;
  }
  return quota > 0 && period > 0 ? quota / period : kAny;
}

/// Returns the CPU time, in CPUs, that the control groups of this process allow; infinity without a limit. `root` is prepended
/// to every path that is read, for tests.
inline double GroupCpus(const std::string& root = "") {
  double cpus = std::numeric_limits<double>::infinity();
  for (const ControlGroup& group : ControlGroupsOf("cpu", root)) {
    for (const std::string& directory : group.Lineage()) cpus = std::min(cpus, CpusIn(root + directory, group.version));
  }
  return cpus;
}

/// Returns the number of CPUs that this process can keep busy: those it may run on, or the control groups' quota, rounded up.
/// At least one.
inline unsigned UsableCpus(const std::string& root = "") {
  const unsigned cpus = std::max(std::thread::hardware_concurrency(), 1u);
  const double quota = std::ceil(GroupCpus(root));
  return quota < cpus ? std::max(static_cast<unsigned>(quota), 1u) : cpus;
}

}  // namespace ckpt
