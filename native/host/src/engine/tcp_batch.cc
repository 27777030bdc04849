#include "tcp_batch.h"

#include <algorithm>
#include <utility>

#include "tcp_protocol.h"

namespace ckpt::host {

std::vector<TcpGroup> GroupReads(const std::vector<TcpRead>& reads, std::uint64_t bytes) {
  std::vector<TcpGroup> groups;
  TcpGroup group;
  const auto flush = [&] {
    if (!group.reads.empty()) groups.push_back(std::exchange(group, {}));
  };
  for (auto read : reads) {
    while (read.bytes > 0) {
      auto piece = read;
      piece.bytes = std::min(read.bytes, bytes - group.bytes);
      group.reads.push_back(piece);
      group.bytes += piece.bytes;
      read.offset += piece.bytes;
      read.target += piece.bytes;
      read.bytes -= piece.bytes;
      if (group.bytes == bytes || group.reads.size() == kMaxExtents) flush();
    }
  }
  flush();
  return groups;
}

void TcpBatch::Done(std::size_t groups) {
  const std::lock_guard<std::mutex> lock(mutex_);
  left_ -= groups;
  if (left_ == 0) over_.notify_all();
}

void TcpBatch::Fail(Error error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!failure_) failure_ = std::move(error);
  ended_.store(true);
}

bool TcpBatch::Await(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  return over_.wait_for(lock, limit, [this] { return left_ == 0; });
}

}  // namespace ckpt::host
