#pragma once

#include "ckpt/pipeline.h"

namespace ckpt::cuda {

/// Computes the busy times (the union of each stage's spans) and the idle time of a pipeline that took `whole_ms` milliseconds.
void Summarize(PipelineStats& stats, double whole_ms);

}  // namespace ckpt::cuda
