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
  /// Addresses to try; the first that answers is used.
  std::vector<TcpAddress> addresses;
  std::string secret;
  /// Number of connections to distribute reads over.
  unsigned streams = 4;
  std::chrono::milliseconds timeout{10'000};
  /// The minimum that it accepts; if the endpoint requires more, that is used.
  Protection protection = Protection::kAuthenticated;
  /// Ciphers that it offers for bytes of regions.
  DataCiphers ciphers = AvailableDataCiphers();
};

/// Connections to another endpoint, with one thread each. The thread sends requests ahead of the replies, which it receives
/// directly into their destination.
class TcpPeer {
 public:
  /// Connects every stream. @throws Error PEER_LOST, PEER_UNAUTHORIZED, PEER_PROTOCOL, ABORTED.
  TcpPeer(TcpPeerOptions options, const Cancellation& cancellation);
  /// Closes the connections.
  ~TcpPeer();
  TcpPeer(const TcpPeer&) = delete;
  TcpPeer& operator=(const TcpPeer&) = delete;

  /// Reads all of `reads` and returns their bytes; after it has thrown, nothing is written to their destinations any more.
  /// `progress` is called on this thread from time to time. No byte during `patience` is PEER_LOST.
  /// @throws Error PEER_LOST, PEER_UNAUTHORIZED if the data was changed in transit, REGION_REFUSED (index: the region's),
  /// ABORTED.
  std::uint64_t Read(const std::vector<TcpRead>& reads, std::chrono::milliseconds patience, const Cancellation& cancellation,
                     const std::function<void(std::uint64_t)>& progress);

  bool alive() const { return !lost_.load(); }
  const std::string& name() const { return name_; }
  /// Protection that the two sides agreed on.
  Protection protection() const { return protection_; }
  DataCipher cipher() const { return cipher_; }
  /// Fails pending reads with ABORTED, and joins the threads. Calling it again does nothing.
  void Close();

 private:
  using Clock = std::chrono::steady_clock;
  struct Request {
    std::uint64_t id = 0;
    TcpGroup group;
    std::shared_ptr<TcpBatch> batch;
  };
  /// One connection with its outstanding requests.
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
