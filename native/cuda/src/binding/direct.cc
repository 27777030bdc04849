#include "../engine/direct.h"

#include <vector>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

/// Prepared copies, and what they read and write.
struct DirectObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d646972656374};
  std::shared_ptr<Gpu> gpu;
  std::unique_ptr<const DirectJob> job;
  std::vector<std::shared_ptr<const void>> holds;
};

constexpr std::size_t kColumns = 8;

struct Range {
  std::uint64_t address;
  std::uint64_t bytes;
};

const Range& At(const std::vector<Range>& ranges, double index, const char* field) {
  const std::uint64_t i = ToUnsigned(index, field);
  if (i >= ranges.size()) throw Error(code::kInvalidArgument, "there is no memory " + std::to_string(i)).WithField(field);
  return ranges[i];
}

std::uint64_t Inside(const Range& range, std::uint64_t offset, std::uint64_t rows, std::uint64_t row_bytes, std::uint64_t pitch,
                     const char* field) {
  std::uint64_t length = row_bytes;
  bool fits = true;
  if (rows == 0) {
    length = 0;
  } else if (rows > 1) {
    std::uint64_t skipped = 0;
    fits = !__builtin_mul_overflow(rows - 1, pitch, &skipped) && !__builtin_add_overflow(skipped, row_bytes, &length);
  }
  if (!fits || offset > range.bytes || length > range.bytes - offset) {
    throw Error(code::kInvalidArgument, "a copy lies outside its memory").WithField(field);
  }
  return range.address + offset;
}

std::vector<DeviceCopy> ToCopies(const Napi::Value& value, const std::vector<Range>& sources,
                                 const std::vector<Range>& destinations, const char* field) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
      value.As<Napi::TypedArray>().ElementLength() % kColumns != 0) {
    throw Error(code::kInvalidArgument, "copies must be a Float64Array of 8 columns").WithField(field);
  }
  const auto flat = value.As<Napi::Float64Array>();
  std::vector<DeviceCopy> copies;
  copies.reserve(flat.ElementLength() / kColumns);
  for (std::size_t i = 0; i < flat.ElementLength(); i += kColumns) {
    DeviceCopy copy{};
    copy.source_pitch = ToUnsigned(flat[i + 2], "sourcePitch");
    copy.destination_pitch = ToUnsigned(flat[i + 5], "destinationPitch");
    copy.row_bytes = ToUnsigned(flat[i + 6], "rowBytes");
    copy.rows = ToUnsigned(flat[i + 7], "rows");
    copy.source = Inside(At(sources, flat[i], "source"), ToUnsigned(flat[i + 1], "sourceOffset"), copy.rows, copy.row_bytes,
                         copy.source_pitch, "source");
    copy.destination = Inside(At(destinations, flat[i + 3], "destination"), ToUnsigned(flat[i + 4], "destinationOffset"),
                              copy.rows, copy.row_bytes, copy.destination_pitch, "destination");
    copies.push_back(copy);
  }
  return copies;
}

/// prepareDirect(device, registrations, sources, copies, forwards, engineBytes, together): Promise<job>
Napi::Value PrepareDirect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    std::vector<std::shared_ptr<const void>> holds;
    std::vector<Range> memories, storages;
    DirectJob::Options options;
    const auto registrations = info[1].As<Napi::Array>();
    for (std::uint32_t i = 0; i < registrations.Length(); i++) {
      const auto object = Box<RegistrationObject>::Get(registrations.Get(i), "registration");
      if (object->registration == nullptr || !object->registration->pinned()) {
        throw Error(code::kInvalidArgument, "host memory is not pinned, the GPU cannot read it").WithField("memories");
      }
      memories.push_back({reinterpret_cast<std::uint64_t>(object->data), object->bytes});
      options.slice_bytes = object->registration->slice_bytes();
      holds.push_back(object);
    }
    const auto sources = info[2].As<Napi::Array>();
    for (std::uint32_t i = 0; i < sources.Length(); i++) {
      const auto object = Box<SourceObject>::Get(sources.Get(i), "source");
      storages.push_back({object->pointer, object->bytes});
      holds.push_back(object);
    }
    auto copies = ToCopies(info[3], memories, storages, "copies");
    auto forwards = ToCopies(info[4], storages, storages, "forwards");
    options.engine_bytes = ToUnsigned(info[5], "engineBytes");
    options.together = info[6].ToBoolean();
    std::vector<DirectJob::Source> hosts;
    for (const Range& memory : memories) hosts.push_back({memory.address, memory.bytes});
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

/// closeDirect(job): Promise<void>. A run that uses it keeps it.
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
