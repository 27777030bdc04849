#include "pieces.h"

#include <algorithm>

namespace ckpt::rdma {

Pieces::Pieces(const std::vector<RemoteCopy>& copies, std::uint64_t piece_bytes) : piece_bytes_(piece_bytes) {
  for (const RemoteCopy& copy : copies) {
    if (copy.bytes == 0) continue;
    bytes_ += copy.bytes;
    if (!copies_.empty()) {
      RemoteCopy& last = copies_.back();
      if (last.remote == copy.remote && last.local == copy.local && last.remote_offset + last.bytes == copy.remote_offset &&
          last.local_offset + last.bytes == copy.local_offset) {
        last.bytes += copy.bytes;
        continue;
      }
    }
    copies_.push_back(copy);
  }
}

bool Pieces::Take(RemoteCopy& piece) {
  if (!returned_.empty()) {
    piece = returned_.back();
    returned_.pop_back();
    return true;
  }
  if (next_ == copies_.size()) return false;
  const RemoteCopy& copy = copies_[next_];
  piece = copy;
  piece.remote_offset += taken_;
  piece.local_offset += taken_;
  piece.bytes = std::min(piece_bytes_, copy.bytes - taken_);
  taken_ += piece.bytes;
  if (taken_ == copy.bytes) {
    next_++;
    taken_ = 0;
  }
  return true;
}

}  // namespace ckpt::rdma
