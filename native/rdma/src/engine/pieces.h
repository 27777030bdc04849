#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ckpt::rdma {

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
  Pieces(const std::vector<RemoteCopy>& copies, std::uint64_t piece_bytes);

  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return returned_.empty() && next_ == copies_.size(); }
  /// Returns the next run of at most the piece size in `piece`. Returns false if there is none.
  bool Take(RemoteCopy& piece);
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

}  // namespace ckpt::rdma
