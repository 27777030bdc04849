#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/fd.h"

namespace ckpt::host {

/// `host:port`, with IPv6 in brackets, as in configuration and messages.
struct TcpAddress {
  std::string host;
  std::uint16_t port = 0;
};
/// @throws Error INVALID_ARGUMENT.
TcpAddress ParseTcpAddress(const std::string& text);
std::string AddressText(const TcpAddress& address);

/// Listens on `address` (port 0: any free one) and stores the port in `address.port`. @throws Error NATIVE_FAILURE naming the
/// address.
ScopedFd ListenTcp(TcpAddress& address);

/// The first of `addresses` that answers; stores its index in `chosen`. All are tried at once, so that one that drops packets
/// costs no time. `stop` is called from time to time. @throws Error PEER_LOST naming the addresses, ABORTED if stopped.
ScopedFd ConnectTcp(const std::vector<TcpAddress>& addresses, std::chrono::steady_clock::time_point deadline,
                    const std::function<bool()>& stop, std::size_t& chosen);

/// A connected socket's blocking calls return at least this often, so that their caller can check for a stop.
inline constexpr std::chrono::milliseconds kSocketSlice{100};
/// Sets no delay, time-sliced blocking calls and keep-alive.
void ConfigureStream(int fd);

/// Result of a transfer over a socket; kForged: what arrived is not what the other side sent.
enum class Io { kDone, kClosed, kStopped, kFailed, kForged };

/// Called whenever a slice has passed without a byte: whether to continue.
using GoOn = std::function<bool()>;

/// Whether more follows immediately, so that a packet that is not full can wait for it.
enum class Last { kYes, kNo };

/// Sends all of `parts` (which it modifies). Stores errno in `error` if it fails.
Io SendParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last = Last::kYes);
/// Fills all of `parts` (which it modifies). If set, `moved` is called with each number of bytes received.
Io ReceiveParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error,
                const std::function<void(std::size_t)>& moved = nullptr);
Io SendBytes(int fd, const void* data, std::size_t bytes, const GoOn& go_on, int& error);
Io ReceiveBytes(int fd, void* data, std::size_t bytes, const GoOn& go_on, int& error);

/// Starts a thread with this name that receives no signals.
std::thread StartThread(const char* name, std::function<void()> body);

}  // namespace ckpt::host
