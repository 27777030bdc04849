#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/pieces.h"
#include "context.h"

namespace ckpt::rdma {

class CompletionLoop;
class Transfer;

/// Data that one side of a connection needs about the other.
struct Endpoint {
  std::uint32_t queue_pair = 0;
  /// Packet sequence number that its requests begin with.
  std::uint32_t packet_sequence = 0;
  std::uint32_t lid = 0;
  Gid gid{};
  /// Bytes; the smaller value of both sides is used.
  int mtu = 0;
  /// READs of the other side that it answers concurrently.
  int reads_in = 0;
};

struct QueuePairOptions {
  int port = 1;
  int gid_index = 0;
  /// Maximum requests in flight.
  int depth = 64;
};

struct ConnectOptions {
  /// Local ACK timeout as the InfiniBand specification codes it: 4.096 us * 2^timeout.
  int timeout = 14;
  /// At most 6: some devices take 7 for "forever".
  int retries = 6;
  int traffic_class = 0;
  int service_level = 0;
};

/// This side's end of a reliable connection. Connected once; a failed one is replaced, not repaired.
class QueuePair {
 public:
  /// @throws Error INVALID_ARGUMENT, INVALID_STATE, NATIVE_FAILURE.
  QueuePair(std::shared_ptr<Context> context, std::shared_ptr<CompletionLoop> loop, const QueuePairOptions& options);
  QueuePair(const QueuePair&) = delete;
  QueuePair& operator=(const QueuePair&) = delete;
  ~QueuePair();

  const Endpoint& local() const { return local_; }
  const std::shared_ptr<Context>& context() const { return context_; }
  CompletionLoop& loop() const { return *loop_; }
  /// Describes the connection for messages: the device and both numbers.
  std::string Describe() const;

  /// Makes it ready to receive and to send. @throws Error INVALID_ARGUMENT, INVALID_STATE if it was connected before,
  /// NATIVE_FAILURE.
  void Connect(const Endpoint& remote, const ConnectOptions& options);
  bool connected() const { return connected_; }

 private:
  friend class CompletionLoop;

  /// A posted request without a completion so far.
  struct Posted {
    std::uint64_t id;
    std::shared_ptr<Transfer> transfer;
    std::size_t lane;
    RemoteCopy piece;
  };
  /// A batch that this queue pair works for.
  struct User {
    std::shared_ptr<Transfer> transfer;
    std::size_t lane;
  };

  void Modify(ibv_qp_attr& attributes, int mask, const char* state);

  const std::shared_ptr<Context> context_;
  const std::shared_ptr<CompletionLoop> loop_;
  const QueuePairOptions options_;
  ibv_qp* qp_ = nullptr;
  Endpoint local_;
  std::uint32_t remote_number_ = 0;
  std::atomic<bool> connected_{false};

  // Used only by the completion loop, on its thread.
  std::deque<Posted> posted_;
  std::deque<User> users_;
  bool failed_ = false;
  std::int64_t failed_at_ = 0;
};

}  // namespace ckpt::rdma
