#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "ckpt/error.h"
#include "region_table.h"

namespace ckpt::host {

/// One run of bytes to read from a peer's region.
struct TcpRead {
  RegionKey key;
  std::uint64_t offset = 0;
  std::byte* target = nullptr;
  std::uint64_t bytes = 0;
  /// Index of the region in the caller's list, for errors.
  std::uint32_t region = 0;
};

/// The content of one request.
struct TcpGroup {
  std::vector<TcpRead> reads;
  std::uint64_t bytes = 0;
};

/// Divides `reads` into requests of about `bytes` bytes: large ones are split, small ones share a request.
std::vector<TcpGroup> GroupReads(const std::vector<TcpRead>& reads, std::uint64_t bytes);

/// One call of TcpPeer::Read, as its streams see it. Thread-safe. It ends when none of its groups is queued or in progress.
class TcpBatch {
 public:
  TcpBatch(std::size_t groups, std::chrono::milliseconds patience) : patience_(patience), left_(groups) {}

  std::chrono::milliseconds patience() const { return patience_; }
  /// Whether groups that are still queued are not needed any more.
  bool ended() const { return ended_.load(); }
  std::uint64_t bytes() const { return bytes_.load(); }

  void Received(std::uint64_t bytes) { bytes_.fetch_add(bytes); }
  /// `groups` have ended, with or without success.
  void Done(std::size_t groups = 1);
  /// Only the first failure is kept.
  void Fail(Error error);
  /// Waits until the batch has ended, at most this long. @returns whether it has.
  bool Await(std::chrono::milliseconds limit);
  const std::optional<Error>& failure() const { return failure_; }

 private:
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable over_;
  std::size_t left_;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<bool> ended_{false};
  std::optional<Error> failure_;
};

}  // namespace ckpt::host
