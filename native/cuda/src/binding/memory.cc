#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

Napi::Value Nothing(Napi::Env env, int) { return env.Undefined(); }

/// openDevice(index): Promise<device>
Napi::Value OpenDevice(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto index = static_cast<int>(ToUnsigned(info[0], "index"));
    return Environment::Of(info.Env())
        .Run([index](const Task&) { return std::make_shared<DeviceObject>(DeviceObject{std::make_shared<Gpu>(index)}); },
             [](Napi::Env env, std::shared_ptr<DeviceObject>& device) -> Napi::Value {
               return Box<DeviceObject>::Wrap(env, std::move(device));
             });
  });
}

/// closeDevice(device): Promise<void>. Objects created from it keep what they need.
Napi::Value CloseDevice(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto device = Box<DeviceObject>::Take(info[0], "device");
    return Environment::Of(info.Env()).Run([device](const Task&) mutable { return device = nullptr, 0; }, Nothing);
  });
}

/// memoryInfo(device): Promise<{ free, total }>
Napi::Value MemoryInfoOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    return Environment::Of(info.Env())
        .Run([device](const Task&) { return QueryMemory(*device->gpu->context()); },
             [](Napi::Env env, MemoryInfo& memory) -> Napi::Value {
               Napi::Object result = Napi::Object::New(env);
               result.Set("free", static_cast<double>(memory.free));
               result.Set("total", static_cast<double>(memory.total));
               return result;
             });
  });
}

/// allocate(device, bytes): Promise<memory>
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const std::uint64_t bytes = ToUnsigned(info[1], "bytes");
    return Environment::Of(info.Env())
        .Run(
            [device, bytes](const Task&) {
              auto memory = std::make_shared<DeviceMemory>(device->gpu->context(), bytes);
              return std::make_shared<MemoryObject>(MemoryObject{device->gpu, std::move(memory)});
            },
            [](Napi::Env env, std::shared_ptr<MemoryObject>& memory) -> Napi::Value {
              return Box<MemoryObject>::Wrap(env, std::move(memory));
            });
  });
}

/// exportMemory(memory): { handle, offset } for another process on this machine, and its pointer in this process
Napi::Value ExportMemory(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto memory = Box<MemoryObject>::Get(info[0], "memory");
    const IpcExport exported = memory->memory->Export();
    Napi::Object result = Napi::Object::New(info.Env());
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(exported.handle.reserved);
    result.Set("handle", Napi::Buffer<std::uint8_t>::Copy(info.Env(), bytes, sizeof exported.handle.reserved));
    result.Set("offset", static_cast<double>(exported.offset));
    result.Set("pointer", Napi::BigInt::New(info.Env(), static_cast<std::uint64_t>(memory->memory->pointer())));
    return result;
  });
}

/// freeMemory(memory): Promise<void>
Napi::Value FreeMemory(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memory = Box<MemoryObject>::Take(info[0], "memory");
    return Environment::Of(info.Env()).Run([memory](const Task&) mutable { return memory = nullptr, 0; }, Nothing);
  });
}

/// download(memory, offset, bytes): Promise<Buffer>
Napi::Value Download(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto memory = Box<MemoryObject>::Get(info[0], "memory");
    const std::uint64_t offset = ToUnsigned(info[1], "offset");
    const std::uint64_t bytes = ToUnsigned(info[2], "bytes");
    if (offset > memory->memory->bytes() || bytes > memory->memory->bytes() - offset) {
      throw Error(code::kInvalidArgument, "the range lies outside the memory").WithField("offset");
    }
    return Environment::Of(info.Env())
        .Run(
            [memory, offset, bytes](const Task&) {
              const Driver& driver = Driver::Get();
              std::vector<std::uint8_t> data(bytes);
              memory->gpu->context()->MakeCurrent();
              const Stream& stream = memory->gpu->stream();
              if (bytes > 0) {
                driver.Check(driver.api().memcpyDtoHAsync(data.data(), memory->memory->pointer() + offset, bytes, stream.get()),
                             "cuMemcpyDtoHAsync");
              }
              stream.Synchronize();
              return data;
            },
            [](Napi::Env env, std::vector<std::uint8_t>& data) -> Napi::Value {
              return Napi::Buffer<std::uint8_t>::Copy(env, data.data(), data.size());
            });
  });
}

/// registerHost(device, views, pinnable): registration. The views are consecutive parts of one memory, which must stay mapped
/// until the registration is closed. Nothing is pinned yet.
Napi::Value RegisterHost(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    if (!info[1].IsArray()) throw Error(code::kInvalidArgument, "views must be an array").WithField("views");
    const auto views = info[1].As<Napi::Array>();
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    for (std::uint32_t i = 0; i < views.Length(); i++) {
      const Napi::Value value = views.Get(i);
      if (!value.IsBuffer()) throw Error(code::kInvalidArgument, "views must be buffers").WithField("views");
      const auto view = value.As<Napi::Buffer<std::uint8_t>>();
      auto* start = reinterpret_cast<std::byte*>(view.Data());
      if (i == 0) data = start;
      if (start != data + bytes) throw Error(code::kInvalidArgument, "views do not follow each other").WithField("views");
      bytes += view.Length();
    }
    if (bytes == 0) throw Error(code::kInvalidArgument, "no bytes to register").WithField("views");
    auto object = std::make_shared<RegistrationObject>();
    object->data = data;
    object->bytes = bytes;
    if (info[2].ToBoolean().Value()) {
      object->registration = std::make_shared<HostRegistration>(device->gpu->context(), data, bytes);
    }
    return Box<RegistrationObject>::Wrap(info.Env(), std::move(object));
  });
}

/// pinHost(registration, first, last, threads): Promise<problem>. Pins slices of 256 MiB; a refusal by the driver is returned,
/// not thrown.
Napi::Value PinHost(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto object = Box<RegistrationObject>::Get(info[0], "registration");
    if (object->registration == nullptr)
      throw Error(code::kInvalidArgument, "the memory was registered without pinning").WithField("registration");
    const std::size_t first = ToUnsigned(info[1], "first");
    const std::size_t last = ToUnsigned(info[2], "last");
    const unsigned threads = ToThreads(info[3]);
    return Environment::Of(info.Env())
        .Run(
            [object, first, last, threads](const Task& task) {
              try {
                object->registration->Pin(task.pool(), threads, first, last);
              } catch (const Error& error) {
                return std::string(error.what());
              }
              return std::string();
            },
            [](Napi::Env env, std::string& problem) -> Napi::Value {
              return problem.empty() ? env.Undefined() : Napi::String::New(env, problem);
            });
  });
}

/// unregisterHost(registration): Promise<void>. No pipeline may use it any more.
Napi::Value UnregisterHost(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto object = Box<RegistrationObject>::Take(info[0], "registration");
    return Environment::Of(info.Env()).Run([object](const Task&) mutable { return object = nullptr, 0; }, Nothing);
  });
}

}  // namespace

void RegisterMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("openDevice", Napi::Function::New(env, OpenDevice, "openDevice"));
  exports.Set("closeDevice", Napi::Function::New(env, CloseDevice, "closeDevice"));
  exports.Set("memoryInfo", Napi::Function::New(env, MemoryInfoOf, "memoryInfo"));
  exports.Set("allocate", Napi::Function::New(env, Allocate, "allocate"));
  exports.Set("exportMemory", Napi::Function::New(env, ExportMemory, "exportMemory"));
  exports.Set("freeMemory", Napi::Function::New(env, FreeMemory, "freeMemory"));
  exports.Set("download", Napi::Function::New(env, Download, "download"));
  exports.Set("registerHost", Napi::Function::New(env, RegisterHost, "registerHost"));
  exports.Set("pinHost", Napi::Function::New(env, PinHost, "pinHost"));
  exports.Set("unregisterHost", Napi::Function::New(env, UnregisterHost, "unregisterHost"));
}

}  // namespace ckpt::cuda
