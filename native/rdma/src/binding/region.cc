#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "ckpt/napi/views.h"
#include "objects.h"

namespace ckpt::rdma {
namespace {

Access ToAccess(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(ckpt::code::kInvalidArgument, "access must be an object").WithField("access");
  const auto object = value.As<Napi::Object>();
  const auto flag = [&](const char* name) { return object.Get(name).ToBoolean().Value(); };
  return Access{flag("localWrite"), flag("remoteRead"), flag("remoteWrite")};
}

std::uint64_t ToAddress(const Napi::Value& value, const char* field) {
  if (!value.IsBigInt()) throw Error(ckpt::code::kInvalidArgument, std::string(field) + " must be a bigint").WithField(field);
  bool lossless = false;
  const std::uint64_t address = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw Error(ckpt::code::kInvalidArgument, std::string(field) + " is not a 64-bit address").WithField(field);
  return address;
}

template <class Make>
Napi::Value Register(Napi::Env env, Make make) {
  return Environment::Of(env).Run(
      [make](const Task&) {
        auto object = std::make_shared<RegionObject>();
        object->region = make();
        return object;
      },
      [](Napi::Env js, std::shared_ptr<RegionObject>& object) -> Napi::Value {
        Napi::Object result = Napi::Object::New(js);
        result.Set("address", Napi::BigInt::New(js, object->region->address()));
        result.Set("bytes", static_cast<double>(object->region->bytes()));
        result.Set("remoteKey", object->region->remote_key());
        result.Set("handle", Box<RegionObject>::Wrap(js, std::move(object)));
        return result;
      });
}

/// registerViews(device, views, access): Promise<region>. The views are consecutive parts of one memory.
Napi::Value RegisterViews(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const auto [data, bytes] = ToRange(info[1]);
    const Access access = ToAccess(info[2]);
    return Register(info.Env(), [context = device->context, data = data, bytes = bytes, access] {
      return Region::Host(context, data, bytes, access);
    });
  });
}

/// registerPointer(device, address, bytes, access): Promise<region>
Napi::Value RegisterPointer(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const std::uint64_t address = ToAddress(info[1], "address");
    const std::uint64_t bytes = ToUnsigned(info[2], "bytes");
    const Access access = ToAccess(info[3]);
    return Register(info.Env(), [context = device->context, address, bytes, access] {
      return Region::Host(context, reinterpret_cast<void*>(address), bytes, access);
    });
  });
}

/// registerDmabuf(device, fd, offset, bytes, address, access): Promise<region>
Napi::Value RegisterDmabuf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const auto fd = static_cast<int>(ToUnsigned(info[1], "fd"));
    const std::uint64_t offset = ToUnsigned(info[2], "offset");
    const std::uint64_t bytes = ToUnsigned(info[3], "bytes");
    const std::uint64_t address = ToAddress(info[4], "address");
    const Access access = ToAccess(info[5]);
    return Register(info.Env(), [context = device->context, fd, offset, bytes, address, access] {
      return Region::Dmabuf(context, fd, offset, bytes, address, access);
    });
  });
}

/// closeRegion(region): Promise<void>. Resolves when the device has released the memory: batches that use it end first.
Napi::Value CloseRegion(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto object = Box<RegionObject>::Take(info[0], "region");
    return Environment::Of(info.Env())
        .Run(
            [object](const Task&) mutable {
              if (object == nullptr) return 0;
              const std::shared_future<void> gone = object->region->gone();
              object = nullptr;
              gone.wait();
              return 0;
            },
            [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void RegisterRegion(Napi::Env env, Napi::Object exports) {
  exports.Set("registerViews", Napi::Function::New(env, RegisterViews, "registerViews"));
  exports.Set("registerPointer", Napi::Function::New(env, RegisterPointer, "registerPointer"));
  exports.Set("registerDmabuf", Napi::Function::New(env, RegisterDmabuf, "registerDmabuf"));
  exports.Set("closeRegion", Napi::Function::New(env, CloseRegion, "closeRegion"));
}

}  // namespace ckpt::rdma
