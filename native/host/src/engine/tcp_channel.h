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

/// Bytes of regions that one record holds at most. Large records cost less each byte; one still fits a core's own cache.
inline constexpr std::size_t kRecordBytes = std::size_t{256} << 10;

/// A connection after its handshake, with what protects it. Not thread-safe.
///
/// Both sides know from the protocol how long each message is, so that nothing about lengths has to be sent, or believed.
class TcpChannel {
 public:
  TcpChannel(int fd, const SessionKeys& keys);

  /// A message of the protocol: one record, encrypted wherever there is any protection.
  Io Send(const void* message, std::size_t bytes, const GoOn& go_on, int& error, Last last = Last::kYes);
  /// @returns kForged where it is not what the other side sent at this place.
  Io Receive(void* message, std::size_t bytes, const GoOn& go_on, int& error,
             const std::function<void(std::size_t)>& moved = nullptr);

  /// Bytes of regions, which must not change meanwhile: they would not fit their tag.
  Io SendData(std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last);
  /// Fills `parts`. What is in them is of no use unless this returns kDone: bytes are authenticated where they have arrived.
  /// `moved` is called whenever something came, with the bytes that were authenticated since the last call.
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
