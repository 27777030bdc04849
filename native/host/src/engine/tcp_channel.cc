#include "tcp_channel.h"

#include <algorithm>
#include <cstring>

namespace ckpt::host {
namespace {

/// Walks over parts, some bytes at a time.
class Cursor {
 public:
  explicit Cursor(const std::vector<iovec>& parts) : parts_(parts) {
    for (const auto& part : parts) left_ += part.iov_len;
  }

  std::size_t left() const { return left_; }

  /// Calls `move(part's bytes, offset within these `bytes`, number)` for the next `bytes` bytes.
  template <class Move>
  void Next(std::size_t bytes, Move move) {
    left_ -= bytes;
    for (std::size_t done = 0; done < bytes;) {
      const auto& part = parts_[index_];
      const auto piece = std::min(bytes - done, part.iov_len - offset_);
      if (piece > 0) move(static_cast<std::uint8_t*>(part.iov_base) + offset_, done, piece);
      done += piece;
      offset_ += piece;
      if (offset_ == part.iov_len) {
        ++index_;
        offset_ = 0;
      }
    }
  }

 private:
  const std::vector<iovec>& parts_;
  std::size_t left_ = 0;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;
};

}  // namespace

TcpChannel::TcpChannel(int fd, const SessionKeys& keys) : fd_(fd), protection_(keys.protection) {
  if (protection_ == Protection::kNone) return;
  sealing_.emplace(keys.sending);
  opening_.emplace(keys.receiving);
}

Io TcpChannel::Send(const void* message, std::size_t bytes, const GoOn& go_on, int& error, Last last) {
  const auto* const begin = static_cast<const std::uint8_t*>(message);
  message_.assign(begin, begin + bytes);
  if (sealing_) {
    message_.resize(bytes + kTagBytes);
    sealing_->Seal(message_.data(), bytes, message_.data() + bytes);
  }
  std::vector<iovec> parts{{message_.data(), message_.size()}};
  return SendParts(fd_, parts, go_on, error, last);
}

Io TcpChannel::Receive(void* message, std::size_t bytes, const GoOn& go_on, int& error,
                       const std::function<void(std::size_t)>& moved) {
  message_.resize(bytes + (opening_ ? kTagBytes : 0));
  std::vector<iovec> parts{{message_.data(), message_.size()}};
  const auto io = ReceiveParts(fd_, parts, go_on, error, moved);
  if (io != Io::kDone) return io;
  if (opening_ && !opening_->Open(message_.data(), bytes, message_.data() + bytes)) return Io::kForged;
  std::memcpy(message, message_.data(), bytes);
  return Io::kDone;
}

Io TcpChannel::SendData(std::vector<iovec>& parts, const GoOn& go_on, int& error, Last last) {
  if (!sealing_) return SendParts(fd_, parts, go_on, error, last);
  const bool encrypted = protection_ == Protection::kEncrypted;
  record_.resize(kTagBytes + (encrypted ? kRecordBytes : 0));
  auto* const tag = record_.data();
  auto* const sealed = record_.data() + kTagBytes;
  Cursor cursor(parts);
  while (cursor.left() > 0) {
    const auto bytes = std::min(cursor.left(), kRecordBytes);
    std::vector<iovec> record;
    sealing_->Begin(true);
    cursor.Next(bytes, [&](std::uint8_t* from, std::size_t at, std::size_t piece) {
      sealing_->Update(encrypted ? sealed + at : nullptr, from, piece);
      if (!encrypted) record.push_back({from, piece});
    });
    sealing_->Finish(tag);
    if (encrypted) record.push_back({sealed, bytes});
    record.push_back({tag, kTagBytes});
    const auto io = SendParts(fd_, record, go_on, error, cursor.left() > 0 ? Last::kNo : last);
    if (io != Io::kDone) return io;
  }
  return Io::kDone;
}

Io TcpChannel::ReceiveData(std::vector<iovec>& parts, const GoOn& go_on, int& error,
                           const std::function<void(std::size_t)>& moved) {
  if (!opening_) return ReceiveParts(fd_, parts, go_on, error, moved);
  const bool encrypted = protection_ == Protection::kEncrypted;
  record_.resize(kTagBytes + (encrypted ? kRecordBytes : 0));
  auto* const tag = record_.data();
  auto* const sealed = record_.data() + kTagBytes;
  Cursor cursor(parts);
  while (cursor.left() > 0) {
    const auto bytes = std::min(cursor.left(), kRecordBytes);
    std::vector<iovec> targets;
    cursor.Next(bytes, [&](std::uint8_t* to, std::size_t, std::size_t piece) { targets.push_back({to, piece}); });
    auto record = encrypted ? std::vector<iovec>{{sealed, bytes}} : targets;
    record.push_back({tag, kTagBytes});
    const auto io = ReceiveParts(fd_, record, go_on, error, [&](std::size_t) { moved(0); });
    if (io != Io::kDone) return io;
    opening_->Begin(false);
    const std::uint8_t* from = sealed;
    for (const auto& target : targets) {
      auto* const to = static_cast<std::uint8_t*>(target.iov_base);
      opening_->Update(encrypted ? to : nullptr, encrypted ? from : to, target.iov_len);
      from += target.iov_len;
    }
    if (!opening_->Check(tag)) return Io::kForged;
    moved(bytes);
  }
  return Io::kDone;
}

}  // namespace ckpt::host
