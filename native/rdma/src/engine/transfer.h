#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "ckpt/pieces.h"
#include "queue_pair.h"
#include "region.h"
#include "work_error.h"

namespace ckpt::rdma {

/// Time for deadlines: nanoseconds of the steady clock.
std::int64_t Now();

enum class Direction { kRead, kWrite };

/// A queue pair with the keys under which its two devices know the memories.
struct Lane {
  std::shared_ptr<QueuePair> pair;
  /// By local memory.
  std::vector<std::shared_ptr<Region>> local;
  /// By remote region.
  std::vector<std::uint32_t> remote_keys;
};

/// A region of the peer: where it starts in the peer's address space, and its size.
struct Remote {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

struct Batch {
  Direction direction = Direction::kRead;
  std::vector<Lane> lanes;
  std::vector<Remote> remotes;
  std::vector<RemoteCopy> copies;
  std::uint64_t piece_bytes = 1 << 20;
  std::int64_t timeout_ns = 0;
};

/// A batch of READs or WRITEs that several queue pairs execute together. Each takes the next piece when it has room, so a
/// faster one moves more. The remaining pieces of a failed one go to the others. Ends once none of its requests is in flight
/// any more.
class Transfer : public std::enable_shared_from_this<Transfer> {
 public:
  /// Called on the threads of the lanes' devices. `error` is null if all bytes were moved.
  using Done = std::function<void(std::exception_ptr error, std::uint64_t bytes)>;
  /// Ascending, one call at a time; must not call the transfer.
  using Progress = std::function<void(std::uint64_t bytes)>;

  /// Starts a batch. `done` is called exactly once, soon even if every lane is dead.
  /// @throws Error INVALID_ARGUMENT for a copy outside its region or memory, or no lanes.
  static std::shared_ptr<Transfer> Start(Batch batch, Progress progress, Done done);

  /// Stops handing out pieces; `done` gets Error ABORTED when the last one in flight has arrived.
  void Cancel();
  /// The same with an error of the caller's.
  void Fail(std::exception_ptr error);

  // For the completion loops.

  /// Returns the next piece for a lane in `piece`. Returns false if there is none now.
  bool Take(RemoteCopy& piece);
  /// Fills in a piece's addresses and keys.
  void Describe(std::size_t lane, const RemoteCopy& piece, ibv_send_wr& request, ibv_sge& element) const;
  void Completed(const RemoteCopy& piece);
  /// Takes back a piece that did not arrive: for another lane, or lost with the batch.
  void Returned(const RemoteCopy& piece);
  /// Marks a lane that will not move anything any more, with the reason.
  void LaneFailed(std::size_t lane, const WorkError& error);
  /// Returns true if a lane may release the batch: nothing will be handed out any more.
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  /// Fails the batch if nothing has moved for its timeout. Returns true if it did.
  bool CheckDeadline(std::int64_t now);
  bool failing() const;

 private:
  Transfer(Batch batch, Progress progress, Done done);
  void Check() const;
  /// Calls `done` if the batch is over; takes the lock.
  void Settle(std::unique_lock<std::mutex> lock);

  const Batch batch_;
  const Progress progress_;
  std::atomic<bool> ended_{false};
  std::atomic<std::int64_t> last_progress_;

  mutable std::mutex mutex_;
  Pieces pieces_;
  Done done_;
  std::uint64_t moved_ = 0;
  std::size_t under_way_ = 0;
  std::vector<bool> lane_failed_;
  std::size_t lanes_left_;
  std::exception_ptr lane_error_;
  std::exception_ptr error_;
};

}  // namespace ckpt::rdma
