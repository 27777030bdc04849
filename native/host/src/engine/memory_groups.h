#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "limit.h"

namespace ckpt::host {

/// Memory limits of the control groups that this process is in, each with its ancestors as far as they can be seen: version 2
/// (memory.max, memory.high) and version 1 (memory.limit_in_bytes), wherever they are mounted. Swap does not count; page cache
/// that the kernel can drop at once counts as free. `root` is prepended to every path that is read, for tests.
std::vector<Limit> GroupMemoryLimits(const std::string& root);

}  // namespace ckpt::host
