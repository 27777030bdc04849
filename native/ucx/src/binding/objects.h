#pragma once

#include <napi.h>

#include <memory>
#include <mutex>

#include "../engine/worker.h"
#include "ckpt/napi/box.h"

namespace ckpt::ucx {

/// Objects that JavaScript can hold.
struct WorkerObject {
  static constexpr napi_type_tag kTag = {0x636b70742d756378, 0x2d776f726b657221};
  std::shared_ptr<Worker> worker;
  /// Id of the environment's shutdown hook, which ends the worker.
  std::uint64_t shutdown = 0;
};

struct RegionObject {
  static constexpr napi_type_tag kTag = {0x636b70742d756378, 0x2d726567696f6e21};
  std::shared_ptr<Region> region;
};

struct ConnectionObject {
  static constexpr napi_type_tag kTag = {0x636b70742d756378, 0x2d6c696e6b212121};
  std::shared_ptr<Connection> connection;
};

/// Cancels its batch, even before that has begun.
struct CancellationObject {
  static constexpr napi_type_tag kTag = {0x636b70742d756378, 0x2d63616e63656c21};
  std::mutex mutex;
  bool cancelled = false;
  std::shared_ptr<Loop> loop;
  std::weak_ptr<Transfer> transfer;

  void Cancel() {
    const std::lock_guard<std::mutex> lock(mutex);
    cancelled = true;
    if (loop == nullptr) return;
    loop->Post([running = transfer](Loop&) {
      if (const auto held = running.lock(); held != nullptr) Loop::Cancel(*held);
    });
  }
  void Attach(const std::shared_ptr<Loop>& on, const std::shared_ptr<Transfer>& started) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      loop = on;
      transfer = started;
      if (!cancelled) return;
    }
    Cancel();
  }
};

/// One function per binding file, called once per environment by addon.cc.
void RegisterWorker(Napi::Env env, Napi::Object exports);
void RegisterTransfer(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::ucx
