#include "pieces.h"

#include <algorithm>

namespace ckpt::rdma {

Pieces::Pieces(const std::vector<Row>& rows, std::uint64_t piece_bytes) : piece_bytes_(piece_bytes) {
  for (const Row& row : rows) {
    if (row.bytes == 0) continue;
    bytes_ += row.bytes;
    if (!rows_.empty()) {
      Row& last = rows_.back();
      if (last.remote == row.remote && last.local == row.local && last.remote_offset + last.bytes == row.remote_offset &&
          last.local_offset + last.bytes == row.local_offset) {
        last.bytes += row.bytes;
        continue;
      }
    }
    rows_.push_back(row);
  }
}

bool Pieces::Take(Row& piece) {
  if (!returned_.empty()) {
    piece = returned_.back();
    returned_.pop_back();
    return true;
  }
  if (next_ == rows_.size()) return false;
  const Row& row = rows_[next_];
  piece = row;
  piece.remote_offset += taken_;
  piece.local_offset += taken_;
  piece.bytes = std::min(piece_bytes_, row.bytes - taken_);
  taken_ += piece.bytes;
  if (taken_ == row.bytes) {
    next_++;
    taken_ = 0;
  }
  return true;
}

}  // namespace ckpt::rdma
