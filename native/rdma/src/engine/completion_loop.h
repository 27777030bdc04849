#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ckpt/fd.h"
#include "context.h"
#include "queue_pair.h"

namespace ckpt::rdma {

/// One device's thread: accepts batches, posts their requests, and handles their completions. Only this thread knows a queue
/// pair's requests in flight.
///
/// Lifetime: queue pairs hold their loop. The thread holds what it works on, and never the loop itself, so the last holder may
/// be anywhere, including its own thread.
class CompletionLoop {
 public:
  explicit CompletionLoop(std::shared_ptr<Context> context);
  CompletionLoop(const CompletionLoop&) = delete;
  CompletionLoop& operator=(const CompletionLoop&) = delete;
  ~CompletionLoop();

  /// Lets a queue pair work for a batch. Any thread.
  void Enlist(std::shared_ptr<QueuePair> pair, std::shared_ptr<Transfer> transfer, std::size_t lane);
  /// Takes a queue pair out of service: its requests in flight fail. Any thread.
  void Retire(std::shared_ptr<QueuePair> pair);
  /// Fails every running batch and ends the thread. Not from the loop's own thread.
  void Stop();

 private:
  struct State;
  const std::shared_ptr<State> state_;
  std::mutex mutex_;
  std::thread thread_;
};

}  // namespace ckpt::rdma
