#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "limit.h"

namespace ckpt::host {

/// Memory limits of the control groups that this process is in, each with its visible ancestors: version 2 (memory.max,
/// memory.high) and version 1 (memory.limit_in_bytes), wherever they are mounted. Swap is not counted; page cache that the
/// kernel can drop immediately counts as free. `root` is prepended to every path that is read, for tests.
std::vector<Limit> GroupMemoryLimits(const std::string& root);

}  // namespace ckpt::host
