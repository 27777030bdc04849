#include "../engine/pipeline.h"

#include <memory>
#include <utility>
#include <vector>

#include "ckpt/napi/pipeline.h"
#include "job.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

/// startPipeline(group, ring, job, callbacks): { release(bucket), arrived(bucket), abort(message) }
Napi::Value StartPipeline(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto group = Box<GroupObject>::Get(info[0], "group");
    const auto ring = Box<MemoryObject>::Get(info[1], "ring");
    std::vector<std::shared_ptr<const void>> holds = {group};
    Schedule schedule(ToJob(info[2], *ring, holds));
    group->gpu->context()->MakeCurrent();
    return BoundPipeline::Run(info.Env(), info[3], std::move(holds), [&](PipelineEvents events) {
      return Pipeline::Start({group->gpu->context(), ring->memory, group->h2d, group->broadcast, group->communicator},
                             std::move(schedule), std::move(events));
    });
  });
}

}  // namespace

void RegisterPipeline(Napi::Env env, Napi::Object exports) {
  exports.Set("startPipeline", Napi::Function::New(env, StartPipeline, "startPipeline"));
}

}  // namespace ckpt::cuda
