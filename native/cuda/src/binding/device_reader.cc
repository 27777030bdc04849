#include "../engine/device_reader.h"

#include <algorithm>
#include <cstring>

#include "ckpt/napi/copies.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

/// openForeign(device, handle): Promise<{ source, bytes }>. Maps another process's allocation.
Napi::Value OpenForeign(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    abi::IpcMemHandle handle;
    if (!info[1].IsBuffer() || info[1].As<Napi::Buffer<std::uint8_t>>().Length() != sizeof handle.reserved) {
      throw Error(code::kInvalidArgument, "an IPC handle has 64 bytes").WithField("handle");
    }
    std::memcpy(handle.reserved, info[1].As<Napi::Buffer<std::uint8_t>>().Data(), sizeof handle.reserved);
    return Environment::Of(info.Env())
        .Run(
            [device, handle](const Task&) {
              auto memory = std::make_shared<const ForeignMemory>(device->gpu->context(), handle);
              const abi::DevicePointer pointer = memory->pointer();
              const std::size_t bytes = memory->bytes();
              return std::make_shared<SourceObject>(SourceObject{std::move(memory), pointer, bytes});
            },
            [](Napi::Env env, std::shared_ptr<SourceObject>& source) -> Napi::Value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("bytes", static_cast<double>(source->bytes));
              result.Set("source", Box<SourceObject>::Wrap(env, std::move(source)));
              return result;
            });
  });
}

/// ownSource(device, pointer, bytes): source. Device memory of this process; its owner has to keep it while it is read.
Napi::Value OwnSource(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    if (!info[1].IsBigInt()) throw Error(code::kInvalidArgument, "a device pointer must be a bigint").WithField("pointer");
    bool lossless = false;
    const abi::DevicePointer pointer = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
    const std::uint64_t bytes = ToUnsigned(info[2], "bytes");
    const Driver& driver = Driver::Get();
    device->gpu->context()->MakeCurrent();
    abi::DevicePointer base = 0;
    std::size_t whole = 0;
    const abi::Result result = driver.api().memGetAddressRange(&base, &whole, pointer);
    if (!lossless || result != abi::kSuccess) {
      throw Error(code::kInvalidArgument, "the driver knows no device memory at this pointer: " + driver.Describe(result))
          .WithField("pointer")
          .WithNumber(result);
    }
    return Box<SourceObject>::Wrap(
        info.Env(), std::make_shared<SourceObject>(SourceObject{nullptr, pointer, static_cast<std::size_t>(bytes)}));
  });
}

/// closeSource(source): Promise<void>. Reads that use it keep it alive.
Napi::Value CloseSource(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto source = Box<SourceObject>::Take(info[0], "source");
    return Environment::Of(info.Env())
        .Run([source](const Task&) mutable { return source = nullptr, 0; },
             [](Napi::Env env, int) -> Napi::Value { return env.Undefined(); });
  });
}

/// Runs of one row, split at the slices of the registration.
void AppendRows(std::vector<DeviceRead>& reads, std::size_t index, const SourceObject& source, std::uint64_t source_offset,
                const RegistrationObject& memory, std::uint64_t memory_offset, std::uint64_t bytes) {
  const bool pinned = memory.registration != nullptr && memory.registration->pinned();
  const std::size_t slice = memory.registration ? memory.registration->slice_bytes() : bytes;
  for (std::uint64_t at = 0; at < bytes;) {
    const std::uint64_t offset = memory_offset + at;
    const std::uint64_t room = memory.registration ? slice - offset % slice : bytes;
    const std::uint64_t length = std::min<std::uint64_t>(bytes - at, room);
    // The driver recognises pinned memory by its address in any copy.
    auto* to = const_cast<std::byte*>(memory.data) + offset;
    const DeviceRead read{source.pointer + source_offset + at, to, static_cast<std::size_t>(length), pinned, index};
    if (memory.registration && offset % slice == 0)
      reads.push_back(read);
    else
      AppendRead(reads, read);
    at += length;
  }
}

/// readDevice(device, sources, registrations, copies, cancellation, onProgress): Promise<number>, the bytes copied.
Napi::Value ReadDeviceOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    std::vector<std::shared_ptr<SourceObject>> sources;
    const auto source_list = info[1].As<Napi::Array>();
    for (std::uint32_t i = 0; i < source_list.Length(); i++)
      sources.push_back(Box<SourceObject>::Get(source_list.Get(i), "source"));
    std::vector<std::shared_ptr<RegistrationObject>> memories;
    const auto memory_list = info[2].As<Napi::Array>();
    for (std::uint32_t i = 0; i < memory_list.Length(); i++) {
      memories.push_back(Box<RegistrationObject>::Get(memory_list.Get(i), "registration"));
    }
    std::vector<DeviceRead> reads;
    for (const auto& [source, source_offset, memory, memory_offset, bytes] : ToContiguousCopies(info[3], "copies")) {
      if (source >= sources.size() || source_offset > sources[source]->bytes ||
          bytes > sources[source]->bytes - source_offset) {
        throw Error(code::kInvalidArgument, "a read is outside its device memory").WithField("source");
      }
      if (memory >= memories.size() || memory_offset > memories[memory]->bytes ||
          bytes > memories[memory]->bytes - memory_offset) {
        throw Error(code::kInvalidArgument, "a read is outside its host memory").WithField("memory");
      }
      AppendRows(reads, source, *sources[source], source_offset, *memories[memory], memory_offset, bytes);
    }
    Environment::Options options;
    options.cancellation = Box<CancellationObject>::Get(info[4], "cancellation")->cancellation;
    if (info[5].IsFunction()) options.progress = info[5].As<Napi::Function>();
    return Environment::Of(info.Env())
        .Run(
            [device, sources, memories, reads](const Task& task) {
              return ReadDevice(device->gpu->context(), reads, task.cancellation(),
                                [&task](std::uint64_t bytes) { task.Report(static_cast<double>(bytes)); });
            },
            [](Napi::Env env, std::uint64_t& bytes) -> Napi::Value {
              return Napi::Number::New(env, static_cast<double>(bytes));
            },
            std::move(options));
  });
}

}  // namespace

void RegisterDeviceReader(Napi::Env env, Napi::Object exports) {
  exports.Set("openForeign", Napi::Function::New(env, OpenForeign, "openForeign"));
  exports.Set("ownSource", Napi::Function::New(env, OwnSource, "ownSource"));
  exports.Set("closeSource", Napi::Function::New(env, CloseSource, "closeSource"));
  exports.Set("readDevice", Napi::Function::New(env, ReadDeviceOf, "readDevice"));
}

}  // namespace ckpt::cuda
