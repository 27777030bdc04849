#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "../engine/schedule.h"
#include "objects.h"

namespace ckpt::cuda {

/// Reads a CudaPipelineJob. `holds` receives the objects that its copies read from. @throws Error INVALID_ARGUMENT naming the
/// field.
Job ToJob(const Napi::Value& value, const MemoryObject& ring, std::vector<std::shared_ptr<const void>>& holds);

}  // namespace ckpt::cuda
