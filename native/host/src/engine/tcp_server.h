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
  /// Where to listen; port 0 takes a free one.
  std::vector<TcpAddress> addresses;
  /// What peers have to prove that they know.
  std::string secret;
  /// Of the threads that serve, 0 to 19. At 19 one of them gets 1.5 % of a core beside a thread of niceness 0.
  int niceness = 19;
  /// What it wants at least; where a peer wants more, there is more.
  Protection protection = Protection::kAuthenticated;
  /// What it takes for bytes of regions; the fastest that the peer has too is used.
  DataCiphers ciphers = AvailableDataCiphers();
};

/// Serves reads of registered regions: a thread that accepts, and one for each connection. Nothing else takes part.
class TcpServer {
 public:
  /// @throws Error NATIVE_FAILURE naming the address, INVALID_ARGUMENT.
  explicit TcpServer(TcpServerOptions options);
  /// Stops.
  ~TcpServer();
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  const EndpointId& id() const { return id_; }
  /// With the ports that were taken.
  const std::vector<TcpAddress>& addresses() const { return options_.addresses; }
  RegionTable& regions() { return regions_; }
  /// Bytes of regions sent so far.
  std::uint64_t served_bytes() const { return served_bytes_.load(); }
  /// Connections that are open.
  std::size_t connections() const;

  /// Closes the listeners and every connection, and joins the threads. Calling it again does nothing.
  void Stop();

 private:
  struct Connection {
    ScopedFd fd;
    std::thread thread;
    /// The peer has proven that it knows the secret.
    std::atomic<bool> known{false};
    std::atomic<bool> over{false};
    /// Shut down to make room.
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
