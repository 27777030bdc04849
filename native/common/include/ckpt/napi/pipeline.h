#pragma once

#include <napi.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "ckpt/napi/columns.h"
#include "ckpt/napi/environment.h"
#include "ckpt/pipeline.h"

namespace ckpt {

/// Maximum time without progress that a job can request, in milliseconds: 12 days.
inline constexpr std::uint64_t kLongestTimeoutMs = std::uint64_t{1} << 30;

/// Fills in the part of a job that is the same on every device (NativePlan in pipeline.d.ts); nothing in it refers to
/// JavaScript.
/// @throws Error INVALID_ARGUMENT naming the field.
inline void ReadPlan(const Napi::Object& job, PipelinePlan& plan) {
  plan.position = static_cast<std::uint32_t>(ToUnsigned(job.Get("position"), "position"));
  plan.chunk_bytes = ToUnsigned(job.Get("chunkBytes"), "chunkBytes");
  plan.timeout_ms = std::min(ToUnsigned(job.Get("timeoutMs"), "timeoutMs"), kLongestTimeoutMs);
  plan.serial = job.Get("serial").ToBoolean();
  const Napi::Value arrive_in = job.Get("arriveIn");
  if (!arrive_in.IsUndefined()) {
    const auto place = ToText(arrive_in, "arriveIn");
    if (place != "sources" && place != "ring") {
      throw Error(code::kInvalidArgument, "arriveIn is '" + place + "', neither 'sources' nor 'ring'").WithField("arriveIn");
    }
    plan.arrive_in = place == "ring" ? ArriveIn::kRing : ArriveIn::kSources;
  }
  const auto count = static_cast<std::size_t>(ToUnsigned(job.Get("bucketCount"), "bucketCount"));
  const auto owner = Column<Napi::Uint32Array>(job, "owner", napi_uint32_array, count);
  const auto bytes = Column<Napi::Float64Array>(job, "bytes", napi_float64_array, count);
  const auto ring_offset = Column<Napi::Float64Array>(job, "ringOffset", napi_float64_array, count);
  const auto after = Column<Napi::Int32Array>(job, "after", napi_int32_array, count);
  const auto first_copy = Column<Napi::Uint32Array>(job, "firstCopy", napi_uint32_array, count + 1);
  plan.buckets.reserve(count);
  for (std::size_t b = 0; b < count; b++) {
    plan.buckets.push_back({owner[b], ToUnsigned(bytes[b], "bytes"), ToUnsigned(ring_offset[b], "ringOffset"), after[b]});
  }
  plan.first_copy.assign(first_copy.Data(), first_copy.Data() + count + 1);
  const auto copies = static_cast<std::size_t>(ToUnsigned(job.Get("copyCount"), "copyCount"));
  const auto segment = Column<Napi::Uint32Array>(job, "segment", napi_uint32_array, copies);
  const auto segment_offset = Column<Napi::Float64Array>(job, "segmentOffset", napi_float64_array, copies);
  const auto bucket_offset = Column<Napi::Float64Array>(job, "bucketOffset", napi_float64_array, copies);
  const auto copy_bytes = Column<Napi::Float64Array>(job, "copyBytes", napi_float64_array, copies);
  plan.copies.reserve(copies);
  for (std::size_t c = 0; c < copies; c++) {
    plan.copies.push_back({segment[c], ToUnsigned(segment_offset[c], "segmentOffset"),
                           ToUnsigned(bucket_offset[c], "bucketOffset"), ToUnsigned(copy_bytes[c], "copyBytes")});
  }
}

/// A pipeline's run as seen by JavaScript: { release(bucket), arrived(bucket), abort(message) }.
///
/// The object is held by these three functions and, until the run is drained, by the environment's shutdown hook; both release
/// it on the JavaScript thread. The run's own threads have only weak pointers to it.
class BoundPipeline {
 public:
  /// Starts a run through `start(PipelineEvents)`, which returns a std::shared_ptr<PipelineRun>.
  /// @param callbacks { onBucket, onFinished, onDrained?, onWritable? } of NativePipelineCallbacks in pipeline.d.ts
  /// @param holds objects that the copies read and write, released when the run is drained
  /// @throws Error INVALID_ARGUMENT naming the missing callback.
  template <class Start>
  static Napi::Object Run(Napi::Env env, const Napi::Value& callbacks, std::vector<std::shared_ptr<const void>> holds,
                          Start start) {
    auto& environment = Environment::Of(env);
    const auto self = std::make_shared<BoundPipeline>();
    self->holds_ = std::move(holds);
    self->ReadCallbacks(callbacks);
    self->run_ = start(EventsOf(environment, self));
    self->shutdown_ = environment.AddShutdown([self] {
      if (self->run_) self->run_->Shutdown(kShutdownPatience);
      self->run_ = nullptr;
    });
    environment.Acquire();
    return HandleOf(env, self);
  }

 private:
  /// Time for which an ending environment waits for copies in flight.
  static constexpr std::chrono::milliseconds kShutdownPatience{3000};

  void ReadCallbacks(const Napi::Value& value) {
    if (!value.IsObject()) throw Error(code::kInvalidArgument, "callbacks must be an object").WithField("callbacks");
    const auto callbacks = value.As<Napi::Object>();
    const auto read = [&](const char* name, bool required, Napi::FunctionReference& reference) {
      const Napi::Value function = callbacks.Get(name);
      if (function.IsFunction()) {
        reference = Napi::Persistent(function.As<Napi::Function>());
      } else if (required || !function.IsUndefined()) {
        throw Error(code::kInvalidArgument, std::string(name) + " must be a function").WithField(name);
      }
    };
    read("onBucket", true, on_bucket_);
    read("onFinished", true, on_finished_);
    read("onDrained", false, on_drained_);
    read("onWritable", false, on_writable_);
  }

  static PipelineEvents EventsOf(Environment& environment, const std::shared_ptr<BoundPipeline>& self) {
    const std::weak_ptr<BoundPipeline> weak = self;
    const auto call_later = [&environment, weak](Napi::FunctionReference BoundPipeline::* function) {
      return [&environment, weak, function](std::uint32_t bucket) {
        environment.Post([weak, function, bucket](Napi::Env env) {
          const auto alive = weak.lock();
          if (alive && !((*alive).*function).IsEmpty()) ((*alive).*function).Call({Napi::Number::New(env, bucket)});
        });
      };
    };
    PipelineEvents events;
    events.on_bucket = call_later(&BoundPipeline::on_bucket_);
    events.on_writable = call_later(&BoundPipeline::on_writable_);
    events.on_finished = [&environment, weak](std::optional<Error> failure, PipelineStats stats) {
      const auto shared = std::make_shared<PipelineStats>(std::move(stats));
      environment.Post([weak, shared, failure = std::move(failure)](Napi::Env env) {
        const auto alive = weak.lock();
        if (!alive || alive->on_finished_.IsEmpty()) return;
        const Napi::Value error = failure ? ToJs(env, *failure).Value() : env.Undefined();
        alive->on_finished_.Call({error, failure ? env.Undefined() : StatsToJs(env, *shared)});
      });
    };
    events.on_drained = [&environment, weak] {
      environment.Post([&environment, weak](Napi::Env) {
        if (const auto alive = weak.lock()) alive->Drained(environment);
      });
    };
    return events;
  }

  void Drained(Environment& environment) {
    const Napi::FunctionReference on_drained = std::move(on_drained_);
    run_ = nullptr;
    holds_.clear();
    on_bucket_.Reset();
    on_finished_.Reset();
    on_writable_.Reset();
    environment.RemoveShutdown(shutdown_);
    environment.Release();
    if (!on_drained.IsEmpty()) on_drained.Call({});
  }

  static Napi::Value StatsToJs(Napi::Env env, const PipelineStats& stats) {
    Napi::Object result = Napi::Object::New(env);
    result.Set("h2dMs", stats.h2d_ms);
    result.Set("broadcastMs", stats.broadcast_ms);
    result.Set("idleMs", stats.idle_ms);
    result.Set("h2dBytes", static_cast<double>(stats.h2d_bytes));
    result.Set("broadcastBytes", static_cast<double>(stats.broadcast_bytes));
    auto spans = Napi::Float64Array::New(env, stats.spans.size() * 4);
    std::size_t at = 0;
    for (const StageSpan& span : stats.spans) {
      spans[at++] = static_cast<double>(span.stage);
      spans[at++] = span.bucket;
      spans[at++] = span.start;
      spans[at++] = span.end;
    }
    result.Set("spans", spans);
    return result;
  }

  static std::uint32_t ToBucket(const Napi::Value& value) {
    const auto bucket = ToUnsigned(value, "bucket");
    if (bucket >= 0xffffffffu) throw Error(code::kInvalidArgument, "there is no such bucket").WithField("bucket");
    return static_cast<std::uint32_t>(bucket);
  }

  static Napi::Object HandleOf(Napi::Env env, const std::shared_ptr<BoundPipeline>& self) {
    Napi::Object handle = Napi::Object::New(env);
    const auto method = [&](const char* name, auto body) {
      handle.Set(name, Napi::Function::New(
                           env,
                           [self, body](const Napi::CallbackInfo& call) {
                             Guard(call.Env(), [&] {
                               // Kept during the call, which may end the run.
                               if (const auto run = self->run_) body(*run, call[0]);
                             });
                           },
                           name));
    };
    method("release", [](PipelineRun& run, const Napi::Value& bucket) { run.Release(ToBucket(bucket)); });
    method("arrived", [](PipelineRun& run, const Napi::Value& bucket) { run.Arrived(ToBucket(bucket)); });
    method("abort",
           [](PipelineRun& run, const Napi::Value& message) { run.Abort(Error(code::kAborted, ToText(message, "message"))); });
    return handle;
  }

  std::shared_ptr<PipelineRun> run_;
  std::uint64_t shutdown_ = 0;
  Napi::FunctionReference on_bucket_;
  Napi::FunctionReference on_finished_;
  Napi::FunctionReference on_drained_;
  Napi::FunctionReference on_writable_;
  std::vector<std::shared_ptr<const void>> holds_;
};

}  // namespace ckpt
