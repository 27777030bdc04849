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

/// One broadcast in place: the bytes of every member's memory are replaced with those of `root`.
struct InPlaceBroadcast {
  abi::DevicePointer address;
  std::uint64_t bytes;
  std::uint32_t root;
};

/// A non-blocking NCCL communicator. Only one thread at a time may use it; Abort() may be called from any thread at any time.
class Communicator {
 public:
  /// Created by one member and passed to all others.
  static nccl_abi::UniqueId NewId();

  /// Joins `size` members and sends one small broadcast, so that connections are established before the first update needs
  /// them.
  /// @throws Error TIMEOUT if not all members joined in time, ABORTED, NATIVE_FAILURE with NCCL's text.
  static std::shared_ptr<Communicator> Create(ContextPtr context, const nccl_abi::UniqueId& id, std::uint32_t size,
                                              std::uint32_t position, std::chrono::milliseconds timeout,
                                              const Cancellation& cancellation);

  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  /// Aborts unless closed.
  ~Communicator();

  /// Enqueues broadcasts as one group. Returns false if `give_up` returned true before NCCL had accepted them.
  /// @throws Error NATIVE_FAILURE.
  bool Broadcast(const std::vector<InPlaceBroadcast>& broadcasts, const Stream& stream, const std::function<bool()>& give_up);

  /// @throws Error NATIVE_FAILURE if the communicator has failed since.
  void CheckAsync() const;

  /// Releases everything in order; aborts if that takes longer than `timeout`. Nothing may be in progress. After an abort it
  /// waits at most as long again for the abort to end. Returns whether everything was released.
  bool Close(std::chrono::milliseconds timeout);

  /// Ends running kernels and releases everything, on a separate thread: returns immediately.
  void Abort();

  /// Number of aborts in this process that have not ended.
  static int AbortsUnderWay();

 private:
  explicit Communicator(ContextPtr context) : context_(std::move(context)) {}
  /// Polls until NCCL has finished the last call. False if `give_up` returned true before.
  bool Settle(nccl_abi::Result result, const char* what, const std::function<bool()>& give_up) const;
  void WarmUp(std::uint32_t size, const std::function<bool()>& give_up);

  /// Lives until the abort has ended; the communicator does not wait for it.
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
