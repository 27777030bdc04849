#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/fd.h"
#include "region_table.h"
#include "tcp_channel.h"
#include "tcp_protocol.h"
#include "tcp_socket.h"

namespace ckpt::host {

struct TcpServerOptions {
  /// Addresses to listen on; port 0 selects a free one.
  std::vector<TcpAddress> addresses;
  /// Secret that peers have to prove they know.
  std::string secret;
  /// Niceness of the serving threads, 0 to 19. At 19 a thread gets 1.5 % of a core that it shares with a thread of niceness 0.
  int niceness = 19;
  /// The minimum that it accepts; if a peer requires more, that is used.
  Protection protection = Protection::kAuthenticated;
  /// Ciphers that it accepts for bytes of regions; the fastest that the peer also supports is used.
  DataCiphers ciphers = AvailableDataCiphers();
};

/// Serves reads of registered regions: one thread accepts, and one serves each connection. No other thread is involved.
class TcpServer {
 public:
  /// @throws Error NATIVE_FAILURE naming the address, INVALID_ARGUMENT.
  explicit TcpServer(TcpServerOptions options);
  /// Stops the server.
  ~TcpServer();
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  const EndpointId& id() const { return id_; }
  /// With the actual ports.
  const std::vector<TcpAddress>& addresses() const { return options_.addresses; }
  RegionTable& regions() { return regions_; }
  /// Bytes of regions sent so far.
  std::uint64_t served_bytes() const { return served_bytes_.load(); }
  /// Number of open connections.
  std::size_t connections() const;

  /// Closes the listeners and every connection, and joins the threads. Calling it again does nothing.
  void Stop();

 private:
  struct Connection {
    ScopedFd fd;
    std::thread thread;
    /// The peer has proved that it knows the secret.
    std::atomic<bool> known{false};
    std::atomic<bool> over{false};
    /// Closed to make room.
    bool dropped = false;
  };

  void Accept();
  void Admit(int listener);
  void MakeRoom();
  void Reap();
  void Serve(Connection& connection);
  bool Answer(TcpChannel& channel);

  TcpServerOptions options_;
  EndpointId id_;
  RegionTable regions_;
  std::vector<ScopedFd> listeners_;
  ScopedFd wake_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> served_bytes_{0};
  mutable std::mutex mutex_;
  std::list<Connection> connections_;
  std::thread accepting_;
};

}  // namespace ckpt::host
