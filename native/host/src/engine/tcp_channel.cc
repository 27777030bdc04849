#include "tcp_channel.h"

#include <algorithm>
#include <cstring>

namespace ckpt::host {
namespace {

/// Splits parts into records, in either direction.
class Records {
 public:
  explicit Records(const std::vector<iovec>& parts) : parts_(parts) {
    for (const auto& part : parts) left_ += part.iov_len;
  }

  /// Bytes of the remaining records.
  std::size_t left() const { return left_; }

  /// Location of the next record's bytes.
  std::vector<iovec> Next() {
    std::vector<iovec> pieces;
    for (auto bytes = std::min(left_, kRecordBytes); bytes > 0;) {
      const auto& part = parts_[index_];
      const auto piece = std::min(bytes, part.iov_len - offset_);
      if (piece > 0) pieces.push_back({static_cast<std::uint8_t*>(part.iov_base) + offset_, piece});
      bytes -= piece;
      left_ -= piece;
      offset_ += piece;
      if (offset_ == part.iov_len) {
        ++index_;
        offset_ = 0;
      }
    }
    return pieces;
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
  sealing_data_ = MakeRecordProtector(keys.cipher, keys.sending_data);
  opening_data_ = MakeRecordProtector(keys.cipher, keys.receiving_data);
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
  if (!sealing_data_) return SendParts(fd_, parts, go_on, error, last);
  std::uint8_t tag[kTagBytes];
  for (Records records(parts); records.left() > 0;) {
    const auto before = records.left();
    auto record = records.Next();
    if (protection_ == Protection::kEncrypted) {
      const auto bytes = before - records.left();
      sealed_.resize(kRecordBytes);
      sealing_data_->Seal(record, sealed_.data(), tag);
      record = {{sealed_.data(), bytes}};
    } else {
      sealing_data_->Sign(record, tag);
    }
    record.push_back({tag, kTagBytes});
    const auto io = SendParts(fd_, record, go_on, error, records.left() > 0 ? Last::kNo : last);
    if (io != Io::kDone) return io;
  }
  return Io::kDone;
}

Io TcpChannel::ReceiveData(std::vector<iovec>& parts, const GoOn& go_on, int& error,
                           const std::function<void(std::size_t)>& moved) {
  if (!opening_data_) return ReceiveParts(fd_, parts, go_on, error, moved);
  std::uint8_t tag[kTagBytes];
  for (Records records(parts); records.left() > 0;) {
    const auto before = records.left();
    const auto pieces = records.Next();
    auto record = pieces;
    record.push_back({tag, kTagBytes});
    const auto io = ReceiveParts(fd_, record, go_on, error, [&](std::size_t) { moved(0); });
    if (io != Io::kDone) return io;
    const bool own =
        protection_ == Protection::kEncrypted ? opening_data_->Open(pieces, tag) : opening_data_->Verify(pieces, tag);
    if (!own) return Io::kForged;
    moved(before - records.left());
  }
  return Io::kDone;
}

}  // namespace ckpt::host
