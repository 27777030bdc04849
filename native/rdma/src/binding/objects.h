#pragma once

#include <napi.h>

#include <memory>
#include <mutex>

#include "../engine/completion_loop.h"
#include "../engine/context.h"
#include "../engine/queue_pair.h"
#include "../engine/region.h"
#include "../engine/transfer.h"
#include "ckpt/napi/box.h"

namespace ckpt::rdma {

/// Objects that JavaScript can hold.
struct DeviceObject {
  static constexpr napi_type_tag kTag = {0x636b70742d72646d, 0x612d646576696365};
  std::shared_ptr<Context> context;
  std::shared_ptr<CompletionLoop> loop;
  /// Id of the environment's shutdown hook, which ends the loop.
  std::uint64_t shutdown = 0;
};

struct RegionObject {
  static constexpr napi_type_tag kTag = {0x636b70742d72646d, 0x612d726567696f6e};
  std::shared_ptr<Region> region;
};

struct PairObject {
  static constexpr napi_type_tag kTag = {0x636b70742d72646d, 0x612d706169722121};
  std::shared_ptr<QueuePair> pair;
};

/// Cancels its batch, even before that has begun.
struct CancellationObject {
  static constexpr napi_type_tag kTag = {0x636b70742d72646d, 0x612d63616e63656c};
  std::mutex mutex;
  bool cancelled = false;
  std::weak_ptr<Transfer> transfer;

  void Cancel() {
    std::shared_ptr<Transfer> running;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      cancelled = true;
      running = transfer.lock();
    }
    if (running != nullptr) running->Cancel();
  }
  void Attach(const std::shared_ptr<Transfer>& started) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      transfer = started;
      if (!cancelled) return;
    }
    started->Cancel();
  }
};

/// One function per binding file, called once per environment by addon.cc.
void RegisterProbe(Napi::Env env, Napi::Object exports);
void RegisterDevice(Napi::Env env, Napi::Object exports);
void RegisterRegion(Napi::Env env, Napi::Object exports);
void RegisterPair(Napi::Env env, Napi::Object exports);
void RegisterTransfer(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::rdma
