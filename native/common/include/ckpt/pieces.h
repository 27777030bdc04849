#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ckpt {

/// A contiguous copy between a remote region and a local memory, both by their index, in the direction of its batch.
struct RemoteCopy {
  std::uint32_t remote = 0;
  std::uint64_t remote_offset = 0;
  std::uint32_t local = 0;
  std::uint64_t local_offset = 0;
  std::uint64_t bytes = 0;
};

/// Remaining bytes of a batch, handed out in pieces. Not thread-safe.
class Pieces {
 public:
  /// Copies that are contiguous on both sides are combined; copies without bytes are dropped.
  Pieces(const std::vector<RemoteCopy>& copies, std::uint64_t piece_bytes) : piece_bytes_(piece_bytes) {
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

  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return returned_.empty() && next_ == copies_.size(); }

  /// Returns the next run of at most the piece size in `piece`. Returns false if there is none.
  bool Take(RemoteCopy& piece) {
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

  /// Puts back a piece that could not be moved.
  void Return(const RemoteCopy& piece) { returned_.push_back(piece); }

 private:
  const std::uint64_t piece_bytes_;
  std::vector<RemoteCopy> copies_;
  std::size_t next_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<RemoteCopy> returned_;
};

}  // namespace ckpt
