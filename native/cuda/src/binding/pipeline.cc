#include "../engine/pipeline.h"

#include <memory>
#include <utility>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "job.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

/// How long an environment that goes away waits for copies under way.
constexpr std::chrono::milliseconds kShutdownPatience(3000);

/// A run that JavaScript knows of. Held by the functions it was given and, until drained, by the environment's shutdown hook.
/// Both let go on the JavaScript thread; the pipeline's threads have but weak pointers to it.
struct Run {
  std::shared_ptr<Pipeline> pipeline;
  std::uint64_t shutdown = 0;
  Napi::FunctionReference on_bucket;
  Napi::FunctionReference on_finished;
  Napi::FunctionReference on_drained;
  /// What the copies read and write, until they have ended.
  std::vector<std::shared_ptr<const void>> holds;
};

Napi::Object ToJs(Napi::Env env, const PipelineStats& stats) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("h2dMs", stats.h2d_ms);
  result.Set("broadcastMs", stats.broadcast_ms);
  result.Set("idleMs", stats.idle_ms);
  result.Set("h2dBytes", static_cast<double>(stats.h2d_bytes));
  result.Set("broadcastBytes", static_cast<double>(stats.broadcast_bytes));
  auto spans = Napi::Float64Array::New(env, stats.spans.size() * 4);
  for (std::size_t i = 0; i < stats.spans.size(); i++) {
    const Span& span = stats.spans[i];
    spans[i * 4] = static_cast<double>(span.stage);
    spans[i * 4 + 1] = span.bucket;
    spans[i * 4 + 2] = span.start;
    spans[i * 4 + 3] = span.end;
  }
  result.Set("spans", spans);
  return result;
}

void Drained(Environment& environment, Run& run) {
  const Napi::Function on_drained = run.on_drained.Value();
  run.pipeline = nullptr;
  run.holds.clear();
  run.on_bucket.Reset();
  run.on_finished.Reset();
  run.on_drained.Reset();
  environment.RemoveShutdown(run.shutdown);
  environment.Release();
  on_drained.Call({});
}

PipelineEvents EventsOf(Environment& environment, const std::weak_ptr<Run>& weak) {
  PipelineEvents events;
  events.on_bucket = [&environment, weak](std::uint32_t bucket) {
    environment.Post([weak, bucket](Napi::Env env) {
      const auto run = weak.lock();
      if (run && !run->on_bucket.IsEmpty()) run->on_bucket.Call({Napi::Number::New(env, bucket)});
    });
  };
  events.on_finished = [&environment, weak](std::optional<Error> failure, PipelineStats stats) {
    const auto shared = std::make_shared<PipelineStats>(std::move(stats));
    environment.Post([weak, shared, failure = std::move(failure)](Napi::Env env) {
      const auto run = weak.lock();
      if (!run || run->on_finished.IsEmpty()) return;
      const Napi::Value error = failure ? ckpt::ToJs(env, *failure).Value() : env.Undefined();
      run->on_finished.Call({error, failure ? env.Undefined() : ToJs(env, *shared)});
    });
  };
  events.on_drained = [&environment, weak] {
    environment.Post([&environment, weak](Napi::Env) {
      if (const auto run = weak.lock()) Drained(environment, *run);
    });
  };
  return events;
}

std::uint32_t ToBucket(const Napi::Value& value) {
  const std::uint64_t bucket = ToUnsigned(value, "bucket");
  if (bucket > 0xffffffffu) throw Error(code::kInvalidArgument, "there is no such bucket").WithField("bucket");
  return static_cast<std::uint32_t>(bucket);
}

/// startPipeline(group, ring, job, onBucket, onFinished, onDrained): { release(bucket), arrived(bucket), abort(message) }
Napi::Value StartPipeline(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    const auto group = Box<GroupObject>::Get(info[0], "group");
    const auto ring = Box<MemoryObject>::Get(info[1], "ring");
    if (!info[2].IsObject()) throw Error(code::kInvalidArgument, "the job is not an object").WithField("job");
    for (int i = 3; i < 6; i++) {
      if (!info[i].IsFunction()) throw Error(code::kInvalidArgument, "onBucket, onFinished and onDrained must be functions");
    }
    auto& environment = Environment::Of(env);
    const auto run = std::make_shared<Run>();
    Schedule schedule(ToJob(info[2].As<Napi::Object>(), *ring, run->holds));
    run->holds.push_back(group);
    run->on_bucket = Napi::Persistent(info[3].As<Napi::Function>());
    run->on_finished = Napi::Persistent(info[4].As<Napi::Function>());
    run->on_drained = Napi::Persistent(info[5].As<Napi::Function>());
    group->gpu->context()->MakeCurrent();
    run->pipeline = Pipeline::Start({group->gpu->context(), ring->memory, group->h2d, group->broadcast, group->communicator},
                                    std::move(schedule), EventsOf(environment, run));
    run->shutdown = environment.AddShutdown([run] { run->pipeline->Shutdown(kShutdownPatience); });
    environment.Acquire();

    Napi::Object handle = Napi::Object::New(env);
    handle.Set("release", Napi::Function::New(env, [run](const Napi::CallbackInfo& call) {
                 Guard(call.Env(), [&] {
                   const auto bucket = ToBucket(call[0]);
                   if (run->pipeline) run->pipeline->Release(bucket);
                 });
               }));
    handle.Set("arrived", Napi::Function::New(env, [run](const Napi::CallbackInfo& call) {
                 Guard(call.Env(), [&] {
                   const auto bucket = ToBucket(call[0]);
                   if (run->pipeline) run->pipeline->Arrived(bucket);
                 });
               }));
    handle.Set("abort", Napi::Function::New(env, [run](const Napi::CallbackInfo& call) {
                 Guard(call.Env(), [&] {
                   const std::string message = ToText(call[0], "message");
                   if (run->pipeline) run->pipeline->Abort(Error(code::kAborted, message));
                 });
               }));
    return handle;
  });
}

}  // namespace

void RegisterPipeline(Napi::Env env, Napi::Object exports) {
  exports.Set("startPipeline", Napi::Function::New(env, StartPipeline, "startPipeline"));
}

}  // namespace ckpt::cuda
