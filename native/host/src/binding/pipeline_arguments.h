#pragma once

#include <napi.h>

#include "../engine/pipeline_plan.h"

namespace ckpt::host {

/// The ring of a JavaScript Memory. @throws Error INVALID_ARGUMENT if it is not a ring.
RingView ToRing(const Napi::Value& memory);

/// Reads the argument of startPipeline (see NativePipelineJob in index.d.ts); the result does not refer to JavaScript.
/// @throws Error INVALID_ARGUMENT naming the field.
PipelineSpec ToPipelineSpec(const Napi::Value& job);

/// The binding's functions for rings (pipeline_ring.cc).
void RegisterRings(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::host
