#pragma once

#include <memory>
#include <string>
#include <thread>

#include "loop.h"

namespace ckpt::ucx {

/// A UCX worker with its thread.
class Worker {
 public:
  /// @throws Error ADDON_UNAVAILABLE, NATIVE_FAILURE with what UCX says.
  explicit Worker(const std::string& transports);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  const std::shared_ptr<Loop>& loop() const { return loop_; }
  /// Fails every running batch, ends the thread and releases everything of UCX. Calling it again waits for that too.
  void Stop();

 private:
  const std::shared_ptr<Loop> loop_;
  std::mutex mutex_;
  std::thread thread_;
};

/// A connection; closed with its last holder.
class Connection {
 public:
  /// Waits for an answer of the peer. @throws Error UNSUPPORTED if no transport leads to it, PEER_LOST without an answer.
  Connection(std::shared_ptr<Loop> loop, const std::string& address, std::int64_t timeout_ns);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { Close(); }

  const std::shared_ptr<Link>& link() const { return link_; }
  const std::shared_ptr<Loop>& loop() const { return loop_; }
  bool alive() const { return link_->status == UCS_OK; }
  /// Transports that it uses, as UCX describes them.
  const std::string& description() const { return description_; }
  /// Running batches fail with ABORTED.
  void Close();

 private:
  const std::shared_ptr<Loop> loop_;
  std::shared_ptr<Link> link_;
  std::string description_;
};

/// Registers memory with a worker. @throws Error NATIVE_FAILURE, ABORTED.
std::shared_ptr<Region> Register(const std::shared_ptr<Loop>& loop, void* address, std::size_t bytes);

}  // namespace ckpt::ucx
