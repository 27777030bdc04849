#pragma once

#include <napi.h>

#include "../engine/pipeline_plan.h"

namespace ckpt::host {

/// The ring of a JavaScript Memory. @throws Error INVALID_ARGUMENT when it holds none.
RingView ToRing(const Napi::Value& memory);

/// Reads what startPipeline was given (see NativePipelineJob in index.d.ts); nothing in the result refers to JavaScript.
/// @throws Error INVALID_ARGUMENT naming the field.
PipelineSpec ToPipelineSpec(const Napi::Value& job);

/// The binding's functions on rings (pipeline_ring.cc).
void RegisterRings(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::host
