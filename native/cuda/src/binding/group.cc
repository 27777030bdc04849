#include <chrono>
#include <cstring>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

Napi::Value Nothing(Napi::Env env, int) { return env.Undefined(); }

/// newCancellation(): cancellation
Napi::Value NewCancellation(const Napi::CallbackInfo& info) {
  return Box<CancellationObject>::Wrap(info.Env(), std::make_shared<CancellationObject>());
}

/// cancel(cancellation)
void Cancel(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] { Box<CancellationObject>::Get(info[0], "cancellation")->cancellation->Cancel(); });
}

/// newUniqueId(): Promise<Buffer>
Napi::Value NewUniqueId(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env())
      .Run([](const Task&) { return Communicator::NewId(); },
           [](Napi::Env env, nccl_abi::UniqueId& id) -> Napi::Value {
             return Napi::Buffer<std::uint8_t>::Copy(env, reinterpret_cast<const std::uint8_t*>(id.internal),
                                                     sizeof id.internal);
           });
}

/// joinGroup(device, id, size, position, timeoutMs, cancellation): Promise<group>. A group of one needs no id.
Napi::Value JoinGroup(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const auto size = static_cast<std::uint32_t>(ToUnsigned(info[2], "size"));
    const auto position = static_cast<std::uint32_t>(ToUnsigned(info[3], "position"));
    if (size == 0 || position >= size) {
      throw Error(code::kInvalidArgument, "position " + std::to_string(position) + " of " + std::to_string(size) + " members")
          .WithField("position");
    }
    nccl_abi::UniqueId id{};
    if (size > 1) {
      if (!info[1].IsBuffer() || info[1].As<Napi::Buffer<std::uint8_t>>().Length() != sizeof id.internal) {
        throw Error(code::kInvalidArgument, "the id of a group is a buffer of 128 bytes").WithField("id");
      }
      std::memcpy(id.internal, info[1].As<Napi::Buffer<std::uint8_t>>().Data(), sizeof id.internal);
    }
    const std::chrono::milliseconds timeout(ToUnsigned(info[4], "timeoutMs"));
    Environment::Options options;
    options.cancellation = Box<CancellationObject>::Get(info[5], "cancellation")->cancellation;
    return Environment::Of(info.Env())
        .Run(
            [device, id, size, position, timeout](const Task& task) {
              auto group = std::make_shared<GroupObject>();
              group->gpu = device->gpu;
              const ContextPtr& context = device->gpu->context();
              group->h2d = std::make_shared<const Stream>(context, false);
              group->broadcast = std::make_shared<const Stream>(context, true);
              if (size > 1) {
                group->communicator = Communicator::Create(context, id, size, position, timeout, task.cancellation());
              }
              return group;
            },
            [](Napi::Env env, std::shared_ptr<GroupObject>& group) -> Napi::Value {
              return Box<GroupObject>::Wrap(env, std::move(group));
            },
            std::move(options));
  });
}

/// leaveGroup(group, timeoutMs): Promise<void>. No pipeline may be running.
Napi::Value LeaveGroup(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto group = Box<GroupObject>::Take(info[0], "group");
    const std::chrono::milliseconds timeout(ToUnsigned(info[1], "timeoutMs"));
    return Environment::Of(info.Env())
        .Run(
            [group, timeout](const Task&) mutable {
              if (group != nullptr && group->communicator != nullptr) group->communicator->Close(timeout);
              group = nullptr;
              return 0;
            },
            Nothing);
  });
}

}  // namespace

void RegisterGroup(Napi::Env env, Napi::Object exports) {
  exports.Set("newCancellation", Napi::Function::New(env, NewCancellation, "newCancellation"));
  exports.Set("cancel", Napi::Function::New(env, Cancel, "cancel"));
  exports.Set("newUniqueId", Napi::Function::New(env, NewUniqueId, "newUniqueId"));
  exports.Set("joinGroup", Napi::Function::New(env, JoinGroup, "joinGroup"));
  exports.Set("leaveGroup", Napi::Function::New(env, LeaveGroup, "leaveGroup"));
}

}  // namespace ckpt::cuda
