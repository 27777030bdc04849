#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ckpt/fd.h"
#include "fuzz.h"
#include "tcp_channel.h"
#include "tcp_protocol.h"
#include "tcp_socket.h"

namespace ckpt::host::fuzz {

/// Nothing may take longer, on either side.
inline constexpr std::chrono::seconds kLongest{8};
inline const std::string kSecret = "what a stranger does not know";

template <class Value>
std::string Text(const Value& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

/// What both sides derive from the secret and their hellos, made here again from what docs/p2p.md says.
struct Agreement {
  std::string key;
  std::string hellos;
  Protection protection;
  DataCipher cipher;

  Agreement(const ClientHello& client, const ServerHello& server)
      : key(Text(HmacSha256(Text(client.nonce) + Text(server.nonce), kSecret))),
        hellos(Text(client) + Text(server)),
        protection(server.protection),
        cipher(server.cipher) {}

  Sha256Digest Proof(const std::string& label) const { return HmacSha256(key, label + hellos); }
  SessionKeys Keys(bool client) const {
    Sha256Digest expanding;
    std::memcpy(expanding.data(), key.data(), key.size());
    TrafficKey keys[4];
    HkdfExpand(expanding, "ckpt tcp 3 keys" + hellos, reinterpret_cast<std::uint8_t*>(keys), sizeof keys);
    const int own = client ? 0 : 1;
    return {protection, cipher, keys[own], keys[1 - own], keys[2 + own], keys[3 - own]};
  }
};

/// Until nothing may take longer.
inline GoOn Patience() {
  return [deadline = std::chrono::steady_clock::now() + kLongest] { return std::chrono::steady_clock::now() < deadline; };
}

/// A plain value as bytes, some of which the fuzzer replaces, now and then.
template <class Value>
std::vector<std::uint8_t> Mutated(FuzzedDataProvider& data, const Value& value, bool faithful) {
  std::vector<std::uint8_t> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  if (faithful) return bytes;
  for (int changes = data.ConsumeIntegralInRange<int>(0, 3); changes > 0; --changes) {
    bytes[data.ConsumeIntegralInRange<std::size_t>(0, bytes.size() - 1)] = data.ConsumeIntegral<std::uint8_t>();
  }
  if (data.ConsumeIntegralInRange<int>(0, 7) == 0) bytes.resize(data.ConsumeIntegralInRange<std::size_t>(0, bytes.size()));
  return bytes;
}

/// Sends all that the other side still takes.
inline bool Send(int fd, const void* bytes, std::size_t count) {
  const auto* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t sent = send(fd, at, count, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += sent;
    count -= static_cast<std::size_t>(sent);
  }
  return true;
}
inline bool Send(int fd, const std::vector<std::uint8_t>& bytes) { return Send(fd, bytes.data(), bytes.size()); }

/// At most `count` bytes, fewer where the other side ends before. A side that does neither hangs.
inline std::vector<std::uint8_t> Receive(int fd, std::size_t count) {
  std::vector<std::uint8_t> all;
  const auto deadline = std::chrono::steady_clock::now() + kLongest;
  while (all.size() < count) {
    std::uint8_t buffer[65'536];
    const ssize_t got = recv(fd, buffer, std::min(sizeof buffer, count - all.size()), MSG_DONTWAIT);
    if (got > 0) {
      all.insert(all.end(), buffer, buffer + got);
      continue;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) break;
    pollfd polled{fd, POLLIN, 0};
    poll(&polled, 1, 200);
    if (std::chrono::steady_clock::now() > deadline) Broken("a connection neither answers nor ends");
  }
  return all;
}

template <class Value>
bool ReceiveValue(int fd, Value& value) {
  const auto bytes = Receive(fd, sizeof value);
  if (bytes.size() != sizeof value) return false;
  std::memcpy(&value, bytes.data(), sizeof value);
  return true;
}

/// Sends records as the protocol has them, made here again from what docs/p2p.md says; and, where it is asked to, with one bit
/// changed once a record was sealed.
class Records {
 public:
  /// Where a bit is changed: in which record from now on, and which bit of its bytes and tag.
  struct Change {
    std::size_t record = SIZE_MAX;
    std::size_t bit = 0;
  };

  Records(int fd, const SessionKeys& keys, Change change)
      : fd_(fd),
        protection_(keys.protection),
        messages_(keys.sending),
        data_(MakeRecordProtector(keys.cipher, keys.sending_data)),
        change_(change) {}

  /// Whether what was to be changed has been sent.
  bool changed() const { return changed_; }

  bool SendMessage(const void* message, std::size_t bytes) {
    auto record = RecordOf(message, bytes);
    if (protection_ != Protection::kNone) messages_.Seal(record.data(), bytes, record.data() + bytes);
    return SendRecord(std::move(record));
  }
  bool SendData(const std::vector<std::uint8_t>& bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += kRecordBytes) {
      const auto piece = std::min(bytes.size() - at, kRecordBytes);
      auto record = RecordOf(bytes.data() + at, piece);
      auto plain = std::vector<std::uint8_t>(record.begin(), record.begin() + static_cast<std::ptrdiff_t>(piece));
      const RecordPieces pieces{{plain.data(), piece}};
      if (protection_ == Protection::kAuthenticated) data_->Sign(pieces, record.data() + piece);
      if (protection_ == Protection::kEncrypted) data_->Seal(pieces, record.data(), record.data() + piece);
      if (!SendRecord(std::move(record))) return false;
    }
    return true;
  }

 private:
  /// With room for a tag where there is one.
  std::vector<std::uint8_t> RecordOf(const void* from, std::size_t bytes) const {
    const auto* const begin = static_cast<const std::uint8_t*>(from);
    std::vector<std::uint8_t> record(begin, begin + bytes);
    if (protection_ != Protection::kNone) record.resize(bytes + kTagBytes);
    return record;
  }

  bool SendRecord(std::vector<std::uint8_t> record) {
    if (number_++ == change_.record && !record.empty()) {
      const auto bit = change_.bit % (8 * record.size());
      record[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
      changed_ = true;
    }
    return Send(fd_, record);
  }

  const int fd_;
  const Protection protection_;
  RecordCipher messages_;
  const std::unique_ptr<RecordProtector> data_;
  const Change change_;
  std::size_t number_ = 0;
  bool changed_ = false;
};

}  // namespace ckpt::host::fuzz
