#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data_cipher.h"
#include "session_keys.h"
#include "tcp_socket.h"

namespace ckpt::host {

/// Maximum of bytes of regions in one record. Large records cost less for each byte; this size still fits a core's own cache.
inline constexpr std::size_t kRecordBytes = std::size_t{256} << 10;

/// A connection after its handshake, with its protection. Not thread-safe.
///
/// Both sides know the length of each message from the protocol, so that no lengths need to be sent or trusted.
class TcpChannel {
 public:
  TcpChannel(int fd, const SessionKeys& keys);

  /// A message of the protocol: one record, encrypted if there is any protection.
  Io Send(const void* message, std::size_t bytes, const GoOn& go_on, int& error, Last last = Last::kYes);
  /// @returns kForged if it is not what the other side sent at this position.
  Io Receive(void* message, std::size_t bytes, const GoOn& go_on, int& error,
             const std::function<void(std::size_t)>& moved = nullptr);

  /// Bytes of regions, which must not change meanwhile: they would not match their tag.
  Io SendData(std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last);
  /// Fills `parts`. Their contents must not be used unless this returns kDone: bytes are authenticated only after they have
  /// arrived. `moved` is called whenever bytes arrive, with the number that were authenticated since the last call.
  Io ReceiveData(std::vector<iovec>& parts, const GoOn& go_on, int& error, const std::function<void(std::size_t)>& moved);

 private:
  const int fd_;
  const Protection protection_;
  std::optional<RecordCipher> sealing_;
  std::optional<RecordCipher> opening_;
  std::unique_ptr<RecordProtector> sealing_data_;
  std::unique_ptr<RecordProtector> opening_data_;
  /// A message and its tag.
  std::vector<std::uint8_t> message_;
  /// A record of data that is encrypted before it is sent.
  std::vector<std::uint8_t> sealed_;
};

}  // namespace ckpt::host
