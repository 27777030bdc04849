#pragma once

// Somebody on the way between two TCP endpoints, who sees and changes what passes.
#include <poll.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/cancellation.h"
#include "session_keys.h"
#include "tcp_peer.h"
#include "tcp_server.h"

namespace ckpt::host::wire {

using namespace std::chrono_literals;

inline const std::string kSecret = "a secret of this run, not a real one";
inline const ckpt::Cancellation kNever;
using Bytes = std::vector<std::byte>;
using Traffic = std::vector<std::uint8_t>;

enum class Side { kClient, kServer };

inline constexpr auto kGcm = static_cast<DataCiphers>(DataCipher::kAes256Gcm);
inline constexpr auto kAegis = static_cast<DataCiphers>(DataCipher::kAegis128x4);

/// What a side may offer on this machine: AES-256-GCM alone, and all that there is.
inline std::vector<DataCiphers> Offers() {
  std::vector<DataCiphers> offers{kGcm};
  if (AvailableDataCiphers() != kGcm) offers.push_back(AvailableDataCiphers());
  return offers;
}

/// Sits between a reader and a server: what comes from one side goes through `change`, with what that side had sent before, to
/// the other.
class Wire {
 public:
  using Change = std::function<void(Side from, std::size_t before, Traffic& bytes)>;

  Wire(TcpAddress server, Change change)
      : server_(std::move(server)), change_(std::move(change)), listener_(ListenTcp(address_)) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Wire() {
    stop_.store(true);
    thread_.join();
  }

  const TcpAddress& address() const { return address_; }
  /// Closes both sides once what `change` has left was sent on; for `change`.
  void End() { end_.store(true); }
  /// Ends the connection, and gives what each side had sent.
  std::array<Traffic, 2> Recorded() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
    thread_ = std::thread([] {});
    return seen_;
  }

 private:
  void Run() {
    ckpt::ScopedFd near;
    while (!stop_.load() && !near) {
      pollfd polled{listener_.get(), POLLIN, 0};
      if (poll(&polled, 1, 5) == 1) near = ckpt::ScopedFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    if (!near) return;
    std::size_t chosen = 0;
    auto far = ConnectTcp({server_}, std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen);
    ConfigureStream(near.get());
    ConfigureStream(far.get());
    pollfd polled[2] = {{near.get(), POLLIN, 0}, {far.get(), POLLIN, 0}};
    while (!stop_.load()) {
      poll(polled, 2, 5);
      for (int i = 0; i < 2; ++i) {
        if (polled[i].revents == 0) continue;
        Traffic bytes(64 << 10);
        const ssize_t got = recv(polled[i].fd, bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) continue;
        if (got <= 0) return;
        bytes.resize(static_cast<std::size_t>(got));
        const auto before = seen_[i].size();
        seen_[i].insert(seen_[i].end(), bytes.begin(), bytes.end());
        change_(i == 0 ? Side::kClient : Side::kServer, before, bytes);
        int number = 0;
        const auto io = SendBytes(polled[1 - i].fd, bytes.data(), bytes.size(), [this] { return !stop_.load(); }, number);
        if (io != Io::kDone || end_.load()) return;
      }
    }
  }

  const TcpAddress server_;
  const Change change_;
  TcpAddress address_{"127.0.0.1", 0};
  const ckpt::ScopedFd listener_;
  std::array<Traffic, 2> seen_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> end_{false};
  std::thread thread_;
};

/// A server with one region, and how to reach it over a wire.
struct World {
  std::shared_ptr<Bytes> bytes;
  std::unique_ptr<TcpServer> server;
  RegionKey key;

  explicit World(std::size_t size, Protection protection = Protection::kAuthenticated,
                 DataCiphers ciphers = AvailableDataCiphers()) {
    bytes = std::make_shared<Bytes>(size);
    std::mt19937_64 random(size);
    for (auto& byte : *bytes) byte = static_cast<std::byte>(random());
    TcpServerOptions options{{ParseTcpAddress("127.0.0.1:0")}, kSecret};
    options.protection = protection;
    options.ciphers = ciphers;
    server = std::make_unique<TcpServer>(std::move(options));
    key = server->regions().Add(bytes->data(), bytes->size(), bytes);
  }

  TcpPeerOptions Over(const Wire& wire, Protection protection = Protection::kAuthenticated,
                      DataCiphers ciphers = AvailableDataCiphers()) const {
    return {server->id(), {wire.address()}, kSecret, 1, 5s, protection, ciphers};
  }

  /// Reads all in some runs. @returns the code of what went wrong, or nothing.
  std::string Read(TcpPeer& peer, Bytes& target, unsigned runs) const {
    std::vector<TcpRead> reads;
    const auto each = target.size() / runs;
    for (unsigned i = 0; i < runs; ++i) {
      reads.push_back({key, i * each, target.data() + i * each, i + 1 == runs ? target.size() - i * each : each, 0});
    }
    return CodeOf([&] { peer.Read(reads, 2s, kNever, nullptr); });
  }
};

}  // namespace ckpt::host::wire
