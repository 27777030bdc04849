#include "../engine/pipeline.h"

#include <memory>
#include <utility>

#include "ckpt/napi/pipeline.h"
#include "pipeline_arguments.h"
#include "register.h"

namespace ckpt::host {
namespace {

/// startPipeline(job, callbacks): { release(bucket), arrived(bucket), abort(message) }
Napi::Value StartPipeline(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto prepared = PreparePipeline(ToPipelineSpec(info[0]));
    return BoundPipeline::Run(info.Env(), info[1], {}, [&prepared](PipelineEvents events) {
      return std::make_shared<Pipeline>(std::move(prepared), std::move(events));
    });
  });
}

}  // namespace

void RegisterPipeline(Napi::Env env, Napi::Object exports) {
  RegisterRings(env, exports);
  exports.Set("startPipeline", Napi::Function::New(env, StartPipeline, "startPipeline"));
}

}  // namespace ckpt::host
