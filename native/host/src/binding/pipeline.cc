#include "../engine/pipeline.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "ckpt/napi/environment.h"
#include "memory.h"
#include "numbers.h"
#include "pipeline_arguments.h"
#include "register.h"

namespace ckpt::host {
namespace {

/// A run that JavaScript knows of. Held by the functions it was given and, until the end, by the environment's shutdown hook;
/// both let go on the JavaScript thread. The run's own threads have but weak pointers to it.
struct Run {
  std::unique_ptr<Pipeline> pipeline;
  std::uint64_t shutdown = 0;
  Napi::FunctionReference on_bucket;
  Napi::FunctionReference on_writable;
  Napi::FunctionReference on_finished;
};

Napi::Value ToJs(Napi::Env env, const PipelineFailure& failure) {
  const Napi::Value error = ckpt::ToJs(env, Error(failure.code, failure.message)).Value();
  if (failure.member >= 0) error.As<Napi::Object>().Set("member", static_cast<double>(failure.member));
  return error;
}

Napi::Value ToJs(Napi::Env env, const PipelineStats& stats) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("h2dMs", stats.h2d_ms);
  result.Set("broadcastMs", stats.broadcast_ms);
  result.Set("idleMs", stats.idle_ms);
  result.Set("h2dBytes", static_cast<double>(stats.h2d_bytes));
  result.Set("broadcastBytes", static_cast<double>(stats.broadcast_bytes));
  auto spans = Napi::Float64Array::New(env, stats.spans.size());
  if (!stats.spans.empty()) std::memcpy(spans.Data(), stats.spans.data(), stats.spans.size() * sizeof(double));
  result.Set("spans", spans);
  return result;
}

void Finish(Environment& environment, Napi::Env env, Run& run, const PipelineResult& result) {
  run.pipeline = nullptr;
  const Napi::Function on_finished = run.on_finished.Value();
  run.on_bucket.Reset();
  run.on_writable.Reset();
  run.on_finished.Reset();
  environment.RemoveShutdown(run.shutdown);
  environment.Release();
  on_finished.Call({result.failure ? ToJs(env, *result.failure) : env.Undefined(),
                    result.failure ? env.Undefined() : ToJs(env, result.stats)});
}

std::uint32_t ToBucket(const Napi::Value& value) {
  const auto bucket = ToUnsigned(value, "bucket");
  if (bucket >= kNoBucket) throw Error(code::kInvalidArgument, "there is no such bucket").WithField("bucket");
  return static_cast<std::uint32_t>(bucket);
}

/// Calls a function of the run, which `function` picks, on the JavaScript thread.
std::function<void(std::uint32_t)> Later(Environment& environment, const std::weak_ptr<Run>& weak,
                                         Napi::FunctionReference Run::* function) {
  return [&environment, weak, function](std::uint32_t bucket) {
    environment.Post([weak, function, bucket](Napi::Env js) {
      const auto alive = weak.lock();
      if (alive && !((*alive).*function).IsEmpty()) ((*alive).*function).Call({Napi::Number::New(js, bucket)});
    });
  };
}

/// startPipeline(job, onBucket, onFinished, onWritable): { release(bucket), arrived(bucket), abort(message) }
Napi::Value StartPipeline(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    if (!info[1].IsFunction() || !info[2].IsFunction())
      throw Error(code::kInvalidArgument, "onBucket and onFinished must be functions");
    auto prepared = PreparePipeline(ToPipelineSpec(info[0]));
    if (prepared.spec.arrive_in == ArriveIn::kRing && !info[3].IsFunction()) {
      throw Error(code::kInvalidArgument, "onWritable must be a function where bytes arrive in the ring");
    }
    auto& environment = Environment::Of(env);
    const auto run = std::make_shared<Run>();
    run->on_bucket = Napi::Persistent(info[1].As<Napi::Function>());
    run->on_finished = Napi::Persistent(info[2].As<Napi::Function>());
    if (info[3].IsFunction()) run->on_writable = Napi::Persistent(info[3].As<Napi::Function>());

    const std::weak_ptr<Run> weak = run;
    PipelineEvents events;
    events.on_bucket = Later(environment, weak, &Run::on_bucket);
    events.on_writable = Later(environment, weak, &Run::on_writable);
    events.on_finished = [&environment, weak](PipelineResult result) {
      const auto shared = std::make_shared<PipelineResult>(std::move(result));
      environment.Post([&environment, weak, shared](Napi::Env js) {
        if (const auto alive = weak.lock()) Finish(environment, js, *alive, *shared);
      });
    };
    run->pipeline = std::make_unique<Pipeline>(std::move(prepared), std::move(events));
    // The environment joins the run's threads before it goes away.
    run->shutdown = environment.AddShutdown([run] { run->pipeline = nullptr; });
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
                   const auto message = ToText(call[0], "message");
                   if (run->pipeline) run->pipeline->Abort({code::kAborted, message, -1});
                 });
               }));
    return handle;
  });
}

}  // namespace

void RegisterPipeline(Napi::Env env, Napi::Object exports) {
  RegisterRings(env, exports);
  exports.Set("startPipeline", Napi::Function::New(env, StartPipeline, "startPipeline"));
}

}  // namespace ckpt::host
