#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ckpt::rdma {

/// A run of bytes between a remote region and a local memory, both by their index.
struct Row {
  std::uint32_t remote = 0;
  std::uint64_t remote_offset = 0;
  std::uint32_t local = 0;
  std::uint64_t local_offset = 0;
  std::uint64_t bytes = 0;
};

/// What is left of a batch, handed out in pieces. Not thread-safe.
class Pieces {
 public:
  /// Rows that continue each other on both sides are taken together; rows without bytes fall away.
  Pieces(const std::vector<Row>& rows, std::uint64_t piece_bytes);

  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return returned_.empty() && next_ == rows_.size(); }
  /// The next run of at most the piece size. Returns false when there is none.
  bool Take(Row& piece);
  /// Puts back what could not be moved.
  void Return(const Row& piece) { returned_.push_back(piece); }

 private:
  const std::uint64_t piece_bytes_;
  std::vector<Row> rows_;
  std::size_t next_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<Row> returned_;
};

}  // namespace ckpt::rdma
