#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "pieces.h"
#include "queue_pair.h"
#include "region.h"
#include "work_error.h"

namespace ckpt::rdma {

/// Time that deadlines are counted in: nanoseconds of the steady clock.
std::int64_t Now();

enum class Direction { kRead, kWrite };

/// A queue pair with the keys that its two devices know the memories by.
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

/// A batch of READs or WRITEs that several queue pairs work off together: each takes the next piece when it has room, so a
/// faster one moves more, and what a failed one leaves goes to the others. Ends once nothing of it is under way any more.
class Transfer : public std::enable_shared_from_this<Transfer> {
 public:
  /// On the threads of the lanes' devices. `error` is null when all bytes were moved.
  using Done = std::function<void(std::exception_ptr error, std::uint64_t bytes)>;
  /// Ascending, one call at a time; not to call the transfer.
  using Progress = std::function<void(std::uint64_t bytes)>;

  /// Starts a batch. `done` is called exactly once, soon even where every lane is dead.
  /// @throws Error INVALID_ARGUMENT for a copy outside its region or memory, or no lanes.
  static std::shared_ptr<Transfer> Start(Batch batch, Progress progress, Done done);

  /// Stops handing out pieces; `done` gets Error ABORTED when the last of those under way has landed.
  void Cancel();
  /// The same with an error of the caller's.
  void Fail(std::exception_ptr error);

  // For the completion loops.

  /// The next piece for a lane. Returns false when there is none now.
  bool Take(RemoteCopy& piece);
  /// Fills in a piece's addresses and keys.
  void Describe(std::size_t lane, const RemoteCopy& piece, ibv_send_wr& request, ibv_sge& element) const;
  void Completed(const RemoteCopy& piece);
  /// A piece that did not get through: for another lane, or lost with the batch.
  void Returned(const RemoteCopy& piece);
  /// A lane that will move nothing any more, and why.
  void LaneFailed(std::size_t lane, const WorkError& error);
  /// Returns true if a lane may let go of the batch: nothing will be handed out any more.
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  /// Fails the batch when nothing has moved for its timeout. Returns whether it did.
  bool CheckDeadline(std::int64_t now);
  bool failing() const;

 private:
  Transfer(Batch batch, Progress progress, Done done);
  void Check() const;
  /// Calls `done` where the batch is over; takes the lock.
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
