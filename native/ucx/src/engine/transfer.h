#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/pieces.h"
#include "region.h"

namespace ckpt::ucx {

/// Returns the time of the steady clock.
std::int64_t Now();

struct Link;

enum class Direction { kRead, kWrite };

/// A region of the peer: where it starts in the peer's address space, its size, and its packed key.
struct Remote {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::string key;
};

struct Batch {
  Direction direction = Direction::kRead;
  std::shared_ptr<Link> link;
  std::vector<Remote> remotes;
  std::vector<std::shared_ptr<Region>> locals;
  std::vector<RemoteCopy> copies;
  std::uint64_t piece_bytes = 1 << 20;
  /// Maximum pieces in flight.
  std::size_t depth = 1;
  std::int64_t timeout_ns = 0;
};

/// State of a batch, which only the loop's thread uses once it has been started. It ends when none of its requests is in
/// flight any more.
struct Transfer {
  using Done = std::function<void(std::exception_ptr error, std::uint64_t bytes)>;
  using Progress = std::function<void(std::uint64_t bytes)>;

  /// `done` is called exactly once, `progress` with ascending numbers; both on the loop's thread.
  /// @throws Error INVALID_ARGUMENT for a copy outside its region or memory, or impossible sizes.
  Transfer(Batch batch, Progress progress, Done done);

  /// Hands out no more pieces: the batch ends with `error`, or with the first one it got. An error after the last byte changes
  /// nothing.
  void Fail(const Error& error);
  /// Calls `done`.
  void End();
  bool complete() const { return moved == pieces.bytes() && (flushed || batch.direction == Direction::kRead); }

  const Batch batch;
  const Progress progress;
  const Done done;
  Pieces pieces;
  /// By remote region; null until the batch has started, and afterwards for one that no copy uses.
  std::vector<ucp_rkey_h> keys;
  std::uint64_t moved = 0;
  std::size_t in_flight = 0;
  std::int64_t last_progress;
  /// When its link was closed because nothing moved; 0 before.
  std::int64_t late_since = 0;
  /// True once the peer has all that was written.
  bool flushed = false;
  bool flushing = false;
  std::exception_ptr error;
};

}  // namespace ckpt::ucx
