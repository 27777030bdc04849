#include "../engine/direct.h"

#include <vector>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"
#include "places.h"

namespace ckpt::cuda {
namespace {

/// Prepared copies, and the memories that they read and write.
struct DirectObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d646972656374};
  std::shared_ptr<Gpu> gpu;
  std::unique_ptr<const DirectJob> job;
  std::vector<std::shared_ptr<const void>> holds;
};

/// prepareDirect(device, registrations, sources, copies, forwards, engineBytes, together): Promise<job>
Napi::Value PrepareDirect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    std::vector<std::shared_ptr<const void>> holds;
    std::vector<Place> memories, storages;
    DirectJob::Options options;
    const auto registrations = info[1].As<Napi::Array>();
    for (std::uint32_t i = 0; i < registrations.Length(); i++) {
      const auto object = Box<RegistrationObject>::Get(registrations.Get(i), "registration");
      memories.push_back(PlaceOf(object));
      options.slice_bytes = object->registration->slice_bytes();
      holds.push_back(object);
    }
    const auto sources = info[2].As<Napi::Array>();
    for (std::uint32_t i = 0; i < sources.Length(); i++) {
      const auto object = Box<SourceObject>::Get(sources.Get(i), "source");
      storages.push_back({object->pointer, object->bytes, object});
      holds.push_back(object);
    }
    auto copies = ToCopies(info[3], memories, storages, "copies");
    auto forwards = ToCopies(info[4], storages, storages, "forwards");
    options.engine_bytes = ToUnsigned(info[5], "engineBytes");
    options.together = info[6].ToBoolean();
    std::vector<DirectJob::Source> hosts;
    for (const Place& memory : memories) hosts.push_back({memory.address, memory.bytes});
    return Environment::Of(info.Env())
        .Run(
            [device, holds = std::move(holds), hosts = std::move(hosts), copies = std::move(copies),
             forwards = std::move(forwards), options](const Task&) {
              auto object = std::make_shared<DirectObject>();
              object->gpu = device->gpu;
              object->holds = holds;
              object->job = std::make_unique<const DirectJob>(device->gpu->context(), device->gpu->kernels(), hosts, copies,
                                                              forwards, options);
              return object;
            },
            [](Napi::Env env, std::shared_ptr<DirectObject>& object) -> Napi::Value {
              return Box<DirectObject>::Wrap(env, std::move(object));
            });
  });
}

/// runDirect(job, cancellation): Promise<stats>
Napi::Value RunDirect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto object = Box<DirectObject>::Get(info[0], "job");
    Environment::Options options;
    options.cancellation = Box<CancellationObject>::Get(info[1], "cancellation")->cancellation;
    return Environment::Of(info.Env())
        .Run([object](const Task& task) { return object->job->Run(task.cancellation()); },
             [](Napi::Env env, DirectStats& stats) -> Napi::Value {
               Napi::Object result = Napi::Object::New(env);
               result.Set("h2dMs", stats.h2d_ms);
               result.Set("forwardMs", stats.forward_ms);
               result.Set("h2dBytes", static_cast<double>(stats.h2d_bytes));
               result.Set("forwardBytes", static_cast<double>(stats.forward_bytes));
               auto spans = Napi::Float64Array::New(env, stats.spans.size() * 4);
               std::size_t at = 0;
               for (const DirectStats::Span& span : stats.spans) {
                 spans[at++] = span.stage;
                 spans[at++] = span.index;
                 spans[at++] = span.begin;
                 spans[at++] = span.end;
               }
               result.Set("spans", spans);
               return result;
             },
             std::move(options));
  });
}

/// closeDirect(job): Promise<void>. Runs that use it keep it alive.
Napi::Value CloseDirect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto object = Box<DirectObject>::Take(info[0], "job");
    return Environment::Of(info.Env())
        .Run([object](const Task&) mutable { return object = nullptr, 0; },
             [](Napi::Env env, int) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void RegisterDirect(Napi::Env env, Napi::Object exports) {
  exports.Set("prepareDirect", Napi::Function::New(env, PrepareDirect, "prepareDirect"));
  exports.Set("runDirect", Napi::Function::New(env, RunDirect, "runDirect"));
  exports.Set("closeDirect", Napi::Function::New(env, CloseDirect, "closeDirect"));
}

}  // namespace ckpt::cuda
