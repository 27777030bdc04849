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

/// `host:port`, IPv6 in brackets, as peers and people write it.
struct TcpAddress {
  std::string host;
  std::uint16_t port = 0;
};
/// @throws Error INVALID_ARGUMENT.
TcpAddress ParseTcpAddress(const std::string& text);
std::string AddressText(const TcpAddress& address);

/// Listens on `address` (port 0: any free one); `address.port` gets the port. @throws Error NATIVE_FAILURE naming the address.
ScopedFd ListenTcp(TcpAddress& address);

/// The first of `addresses` that answers; `chosen` gets its index. All are tried at once, so that one that swallows packets
/// costs nothing. `stop` is asked now and then. @throws Error PEER_LOST naming the addresses, ABORTED when stopped.
ScopedFd ConnectTcp(const std::vector<TcpAddress>& addresses, std::chrono::steady_clock::time_point deadline,
                    const std::function<bool()>& stop, std::size_t& chosen);

/// A connected socket's blocking calls return at least this often, so that who makes them can look up.
inline constexpr std::chrono::milliseconds kSocketSlice{100};
/// No delay, time-sliced blocking calls, keep-alive.
void ConfigureStream(int fd);

/// How a transfer over a socket ended; kForged: what came is not what the other side sent.
enum class Io { kDone, kClosed, kStopped, kFailed, kForged };

/// Asked whenever a slice has passed without a byte: whether to go on.
using GoOn = std::function<bool()>;

/// Whether more follows at once, so that a packet that is not full can wait for it.
enum class Last { kYes, kNo };

/// Sends all of `parts` (which it uses up). `error` gets errno where it failed.
Io SendParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last = Last::kYes);
/// Fills all of `parts` (which it uses up). `moved` is called with every number of bytes that came, where it is set.
Io ReceiveParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error,
                const std::function<void(std::size_t)>& moved = nullptr);
Io SendBytes(int fd, const void* data, std::size_t bytes, const GoOn& go_on, int& error);
Io ReceiveBytes(int fd, void* data, std::size_t bytes, const GoOn& go_on, int& error);

/// A thread with this name that no signal is delivered to.
std::thread StartThread(const char* name, std::function<void()> body);

}  // namespace ckpt::host
