#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::rdma {
namespace {

/// openDevice(name, completions): Promise<device>
Napi::Value OpenDevice(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string name = ToText(info[0], "device");
    const std::uint64_t completions = ToUnsigned(info[1], "completions");
    if (completions < 1 || completions > (1 << 22)) {
      throw Error(ckpt::code::kInvalidArgument, "completions must be from 1 to 2^22").WithField("completions");
    }
    return Environment::Of(info.Env())
        .Run(
            [name, completions](const Task&) {
              auto device = std::make_shared<DeviceObject>();
              device->context = std::make_shared<Context>(name, static_cast<int>(completions));
              device->loop = std::make_shared<CompletionLoop>(device->context);
              return device;
            },
            [](Napi::Env env, std::shared_ptr<DeviceObject>& device) -> Napi::Value {
              // The thread must end before the environment does, whatever still holds the device.
              const std::weak_ptr<CompletionLoop> loop = device->loop;
              device->shutdown = Environment::Of(env).AddShutdown([loop] {
                if (const auto held = loop.lock(); held != nullptr) held->Stop();
              });
              return Box<DeviceObject>::Wrap(env, std::move(device));
            });
  });
}

/// closeDevice(device): Promise<void>. Running batches end with ABORTED; objects created from it are no longer usable.
Napi::Value CloseDevice(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto device = Box<DeviceObject>::Take(info[0], "device");
    return Environment::Of(info.Env())
        .Run(
            [device](const Task&) mutable {
              std::uint64_t shutdown = 0;
              if (device != nullptr) {
                device->loop->Stop();
                shutdown = device->shutdown;
              }
              device = nullptr;
              return shutdown;
            },
            [](Napi::Env env, std::uint64_t& shutdown) -> Napi::Value {
              if (shutdown != 0) Environment::Of(env).RemoveShutdown(shutdown);
              return env.Undefined();
            });
  });
}

}  // namespace

void RegisterDevice(Napi::Env env, Napi::Object exports) {
  exports.Set("openDevice", Napi::Function::New(env, OpenDevice, "openDevice"));
  exports.Set("closeDevice", Napi::Function::New(env, CloseDevice, "closeDevice"));
}

}  // namespace ckpt::rdma
