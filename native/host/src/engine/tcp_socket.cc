#include "tcp_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>

#include "ckpt/error.h"
#include "libcrypto.h"

namespace ckpt::host {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

AddressList Resolve(const TcpAddress& address, bool passive, const char* failure) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const int status = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (status != 0) {
    throw Error(failure, "cannot resolve " + address.host + ": " + gai_strerror(status)).WithPeer(AddressText(address));
  }
  return AddressList(list);
}

/// Removes the first `bytes` of `parts`.
void Advance(std::vector<iovec>& parts, std::size_t& first, std::size_t bytes) {
  while (first < parts.size() && bytes >= parts[first].iov_len) bytes -= parts[first++].iov_len;
  if (first == parts.size()) return;
  parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + bytes;
  parts[first].iov_len -= bytes;
}

/// Whether both ends have the same address, or the peer's is of the loopback interface.
bool WithinMachine(int fd) {
  sockaddr_storage own{}, peer{};
  socklen_t own_length = sizeof own, peer_length = sizeof peer;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_length) != 0 ||
      getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_length) != 0 || own.ss_family != peer.ss_family) {
    return false;
  }
  if (own.ss_family == AF_INET) {
    const auto& a = reinterpret_cast<const sockaddr_in&>(own).sin_addr;
    const auto& b = reinterpret_cast<const sockaddr_in&>(peer).sin_addr;
    return a.s_addr == b.s_addr || ntohl(b.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  const auto& a = reinterpret_cast<const sockaddr_in6&>(own).sin6_addr;
  const auto& b = reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr;
  return own.ss_family == AF_INET6 && IN6_ARE_ADDR_EQUAL(&a, &b);
}

bool Sliced(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

struct Attempt {
  ScopedFd fd;
  std::size_t address;
};

}  // namespace

TcpAddress ParseTcpAddress(const std::string& text) {
  const auto colon = text.rfind(':');
  TcpAddress address;
  bool valid = colon != std::string::npos && colon > 0;
  if (valid) {
    address.host = text.substr(0, colon);
    if (address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']') {
      address.host = address.host.substr(1, address.host.size() - 2);
    } else {
      valid = address.host.find(':') == std::string::npos;
    }
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + colon + 1, end, address.port);
    valid = valid && parsed.ec == std::errc() && parsed.ptr == end;
  }
  if (!valid) throw Error(code::kInvalidArgument, "'" + text + "' is not host:port").WithField("addresses");
  return address;
}

std::string AddressText(const TcpAddress& address) {
  const bool six = address.host.find(':') != std::string::npos;
  return (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

ScopedFd ListenTcp(TcpAddress& address) {
  const auto list = Resolve(address, true, code::kInvalidArgument);
  const auto fail = [&](const char* call) {
    return Error::System(code::kNativeFailure, std::string(call) + " on " + AddressText(address), errno)
        .WithPeer(AddressText(address));
  };
  ScopedFd fd(socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw fail("socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd.get(), list->ai_addr, list->ai_addrlen) != 0) throw fail("bind");
  if (listen(fd.get(), 256) != 0) throw fail("listen");
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) throw fail("getsockname");
  address.port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                   : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return fd;
}

ScopedFd ConnectTcp(const std::vector<TcpAddress>& addresses, std::chrono::steady_clock::time_point deadline,
                    const std::function<bool()>& stop, std::size_t& chosen) {
  std::string problems;
  const auto note = [&](std::size_t index, int number) {
    problems += (problems.empty() ? "" : "; ") + AddressText(addresses[index]) + ": " + Error::Describe(number);
  };
  std::vector<Attempt> attempts;
  const auto succeeded = [&](Attempt& attempt) {
    chosen = attempt.address;
    const int flags = fcntl(attempt.fd.get(), F_GETFL);
    fcntl(attempt.fd.get(), F_SETFL, flags & ~O_NONBLOCK);
    return std::move(attempt.fd);
  };
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    try {
      const auto list = Resolve(addresses[i], false, code::kPeerLost);
      for (const addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
        Attempt attempt{ScopedFd(socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), i};
        if (!attempt.fd) throw Error::System(code::kNativeFailure, "socket", errno);
        if (connect(attempt.fd.get(), one->ai_addr, one->ai_addrlen) == 0) return succeeded(attempt);
        if (errno == EINPROGRESS) {
          attempts.push_back(std::move(attempt));
        } else {
          note(i, errno);
        }
      }
    } catch (const Error& error) {
      if (error.code() != code::kPeerLost) throw;
      problems += (problems.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  while (!attempts.empty()) {
    if (stop()) throw Error(code::kAborted, "connecting was cancelled");
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      for (const auto& attempt : attempts) note(attempt.address, ETIMEDOUT);
      break;
    }
    std::vector<pollfd> polled;
    for (const auto& attempt : attempts) polled.push_back({attempt.fd.get(), POLLOUT, 0});
    poll(polled.data(), polled.size(), static_cast<int>(std::min<std::int64_t>(left.count(), kSocketSlice.count())));
    for (std::size_t i = polled.size(); i-- > 0;) {
      if (polled[i].revents == 0) continue;
      int number = 0;
      socklen_t length = sizeof number;
      getsockopt(attempts[i].fd.get(), SOL_SOCKET, SO_ERROR, &number, &length);
      if (number == 0) return succeeded(attempts[i]);
      note(attempts[i].address, number);
      attempts.erase(attempts.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  throw Error(code::kPeerLost, "cannot connect to the endpoint (" + problems + ")")
      .WithPeer(addresses.empty() ? "" : AddressText(addresses.front()));
}

void ConfigureStream(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  const timeval slice{0, kSocketSlice.count() * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
  if (WithinMachine(fd)) setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

Io SendParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last) {
  std::size_t first = 0;
  Advance(parts, first, 0);
  while (first < parts.size()) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = std::min<std::size_t>(parts.size() - first, 1024);
    const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | (last == Last::kNo ? MSG_MORE : 0));
    if (sent >= 0) {
      Advance(parts, first, static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (Sliced(errno)) {
      if (!go_on()) return Io::kStopped;
      continue;
    }
    error = errno;
    return error == EPIPE || error == ECONNRESET ? Io::kClosed : Io::kFailed;
  }
  return Io::kDone;
}

Io ReceiveParts(int fd, std::vector<iovec>& parts, const GoOn& go_on, int& error,
                const std::function<void(std::size_t)>& moved) {
  std::size_t first = 0;
  Advance(parts, first, 0);
  while (first < parts.size()) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = std::min<std::size_t>(parts.size() - first, 1024);
    const ssize_t got = recvmsg(fd, &message, 0);
    if (got > 0) {
      if (moved) moved(static_cast<std::size_t>(got));
      Advance(parts, first, static_cast<std::size_t>(got));
      continue;
    }
    if (got == 0) return Io::kClosed;
    if (errno == EINTR) continue;
    if (Sliced(errno)) {
      if (!go_on()) return Io::kStopped;
      continue;
    }
    error = errno;
    return error == ECONNRESET ? Io::kClosed : Io::kFailed;
  }
  return Io::kDone;
}

Io SendBytes(int fd, const void* data, std::size_t bytes, const GoOn& go_on, int& error) {
  std::vector<iovec> parts{{const_cast<void*>(data), bytes}};
  return SendParts(fd, parts, go_on, error);
}

Io ReceiveBytes(int fd, void* data, std::size_t bytes, const GoOn& go_on, int& error) {
  std::vector<iovec> parts{{data, bytes}};
  return ReceiveParts(fd, parts, go_on, error);
}

std::thread StartThread(const char* name, std::function<void()> body) {
  sigset_t all, previous;
  sigfillset(&all);
  // A blocked signal that the thread itself causes ends the process: accesses to truncated memory are handled (PageWatch).
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  try {
    std::thread thread([body = std::move(body)] {
      body();
      // OpenSSL's per-thread state (its errors, 904 bytes) is freed here, not at some moment during the thread's end.
      Libcrypto::Get().OPENSSL_thread_stop();
    });
    pthread_setname_np(thread.native_handle(), name);
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    throw;
  }
}

}  // namespace ckpt::host
