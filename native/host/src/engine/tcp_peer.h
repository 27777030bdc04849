#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/fd.h"
#include "tcp_batch.h"
#include "tcp_channel.h"
#include "tcp_protocol.h"
#include "tcp_socket.h"

namespace ckpt::host {

struct TcpPeerOptions {
  EndpointId endpoint{};
  /// Where it may be reached; the first that answers is used.
  std::vector<TcpAddress> addresses;
  std::string secret;
  /// Connections to spread reads over.
  unsigned streams = 4;
  std::chrono::milliseconds timeout{10'000};
  /// What it wants at least; where the endpoint wants more, there is more.
  Protection protection = Protection::kAuthenticated;
  /// What it offers for bytes of regions.
  DataCiphers ciphers = AvailableDataCiphers();
};

/// Connections to another endpoint: a thread each, which sends requests ahead of the replies it receives, straight into their
/// destination.
class TcpPeer {
 public:
  /// Connects every stream. @throws Error PEER_LOST, PEER_UNAUTHORIZED, PEER_PROTOCOL, ABORTED.
  TcpPeer(TcpPeerOptions options, const Cancellation& cancellation);
  /// Closes.
  ~TcpPeer();
  TcpPeer(const TcpPeer&) = delete;
  TcpPeer& operator=(const TcpPeer&) = delete;

  /// Reads all of `reads` and returns their bytes; when it throws, nothing is written to their targets any more. `progress` is
  /// called on this thread now and then. No byte for `patience` is PEER_LOST.
  /// @throws Error PEER_LOST, PEER_UNAUTHORIZED when what came was changed on its way, REGION_REFUSED (index: the region's),
  /// ABORTED.
  std::uint64_t Read(const std::vector<TcpRead>& reads, std::chrono::milliseconds patience, const Cancellation& cancellation,
                     const std::function<void(std::uint64_t)>& progress);

  bool alive() const { return !lost_.load(); }
  const std::string& name() const { return name_; }
  /// What the two sides have agreed on.
  Protection protection() const { return protection_; }
  DataCipher cipher() const { return cipher_; }
  /// Fails what is under way with ABORTED, and joins the threads. Calling it again does nothing.
  void Close();

 private:
  using Clock = std::chrono::steady_clock;
  struct Request {
    std::uint64_t id = 0;
    TcpGroup group;
    std::shared_ptr<TcpBatch> batch;
  };
  /// One connection with what it has asked for and not received.
  struct Stream {
    ScopedFd fd;
    std::unique_ptr<TcpChannel> channel;
    std::thread thread;
    std::deque<Request> asked;
    std::uint64_t next_id = 0;
    Clock::time_point heard;
  };

  void Run(Stream& stream);
  bool TakeWork(Stream& stream, std::vector<Request>& taken);
  bool Ask(Stream& stream, Request& request);
  bool Receive(Stream& stream);
  void Settle(Stream& stream, const Request& request, ReplyStatus status, std::uint32_t extent);
  bool MayWait(const Stream& stream);
  void Break(Io io, int number);
  void Lose(Error error);
  void Drop(const std::shared_ptr<TcpBatch>& batch);

  const std::string name_;
  Protection protection_ = Protection::kNone;
  DataCipher cipher_ = DataCipher::kAes256Gcm;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> queue_;
  std::optional<Error> loss_;
  std::atomic<bool> lost_{false};
  std::mutex closing_;
};

}  // namespace ckpt::host
