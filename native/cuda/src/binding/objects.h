#pragma once

#include <napi.h>

#include <cstddef>
#include <memory>
#include <string>

#include "../engine/communicator.h"
#include "../engine/device_reader.h"
#include "../engine/gpu.h"
#include "../engine/registration.h"
#include "ckpt/cancellation.h"
#include "ckpt/napi/box.h"

namespace ckpt::cuda {

/// Objects that JavaScript can hold.
struct DeviceObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d646576696365};
  std::shared_ptr<Gpu> gpu;
};

struct MemoryObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d6d656d6f7279};
  std::shared_ptr<Gpu> gpu;
  std::shared_ptr<DeviceMemory> memory;
};

/// Device memory to read from: that of another process, mapped while this object lives, or this process's own.
struct SourceObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d736f75726365};
  std::shared_ptr<const ForeignMemory> mapping;
  abi::DevicePointer pointer = 0;
  std::size_t bytes = 0;
};

/// Host memory, registered with CUDA unless the driver refused.
struct RegistrationObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d726567697374};
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  /// Null for memory that must not be pinned.
  std::shared_ptr<HostRegistration> registration;
};

/// A member's place in a group: its streams and, if there are several members, its communicator.
struct GroupObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d67726f757021};
  std::shared_ptr<Gpu> gpu;
  std::shared_ptr<Communicator> communicator;
  std::shared_ptr<const Stream> h2d;
  std::shared_ptr<const Stream> broadcast;
};

struct CancellationObject {
  static constexpr napi_type_tag kTag = {0x636b70742d637564, 0x612d63616e63656c};
  std::shared_ptr<Cancellation> cancellation = std::make_shared<Cancellation>();
};

/// One function per binding file, called once per environment by addon.cc.
void RegisterProbe(Napi::Env env, Napi::Object exports);
void RegisterMemory(Napi::Env env, Napi::Object exports);
void RegisterDeviceReader(Napi::Env env, Napi::Object exports);
void RegisterDirect(Napi::Env env, Napi::Object exports);
void RegisterGroup(Napi::Env env, Napi::Object exports);
void RegisterKernels(Napi::Env env, Napi::Object exports);
void RegisterOrders(Napi::Env env, Napi::Object exports);
void RegisterPipeline(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::cuda
