#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "ckpt/cancellation.h"
#include "handles.h"
#include "nccl.h"

namespace ckpt::cuda {

/// One broadcast in place: the same bytes of every member's memory take those of `root`.
struct InPlaceBroadcast {
  abi::DevicePointer address;
  std::uint64_t bytes;
  std::uint32_t root;
};

/// A non-blocking NCCL communicator. One thread at a time uses it; Abort() may come from any thread at any time.
class Communicator {
 public:
  /// What one member makes and all others are given.
  static nccl_abi::UniqueId NewId();

  /// Joins `size` members and sends one small broadcast, so that connections stand before the first update needs them.
  /// @throws Error TIMEOUT when not all members came within the time, ABORTED, NATIVE_FAILURE with NCCL's text.
  static std::shared_ptr<Communicator> Create(ContextPtr context, const nccl_abi::UniqueId& id, std::uint32_t size,
                                              std::uint32_t position, std::chrono::milliseconds timeout,
                                              const Cancellation& cancellation);

  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  /// Aborts unless closed.
  ~Communicator();

  /// Enqueues broadcasts as one group. Returns false when `give_up` said so before NCCL had taken them.
  /// @throws Error NATIVE_FAILURE.
  bool Broadcast(const std::vector<InPlaceBroadcast>& broadcasts, const Stream& stream, const std::function<bool()>& give_up);

  /// @throws Error NATIVE_FAILURE when the communicator has failed since.
  void CheckAsync() const;

  /// Gives everything back in order; where that takes longer than `timeout`, aborts. Nothing may be under way. After an abort
  /// it waits as long at most for that to end. Returns whether everything was given back.
  bool Close(std::chrono::milliseconds timeout);

  /// Ends kernels under way and gives everything back, on a thread of its own: returns at once.
  void Abort();

  /// Aborts of this process that have not ended.
  static int AbortsUnderWay();

 private:
  explicit Communicator(ContextPtr context) : context_(std::move(context)) {}
  /// Polls until NCCL is done with the last call. False when `give_up` said so before.
  bool Settle(nccl_abi::Result result, const char* what, const std::function<bool()>& give_up) const;
  void WarmUp(std::uint32_t size, const std::function<bool()>& give_up);

  /// Lives until the abort has ended, which the communicator need not wait for.
  struct AbortState {
    std::mutex mutex;
    std::condition_variable ended;
    bool started = false;
    bool over = false;
  };

  ContextPtr context_;
  nccl_abi::Comm comm_ = nullptr;
  std::atomic<bool> over_{false};
  std::shared_ptr<AbortState> abort_ = std::make_shared<AbortState>();
};

}  // namespace ckpt::cuda
