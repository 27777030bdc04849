#include "transfer.h"

#include <chrono>

#include "codes.h"
#include "completion_loop.h"

namespace ckpt::rdma {
namespace {

bool Outside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) { return offset > size || bytes > size - offset; }

Error BadCopy(std::size_t index, const std::string& what) {
  return Error(ckpt::code::kInvalidArgument, "transfer " + std::to_string(index) + " " + what).WithField("transfers");
}

}  // namespace

std::int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::shared_ptr<Transfer> Transfer::Start(Batch batch, Progress progress, Done done) {
  std::shared_ptr<Transfer> transfer(new Transfer(std::move(batch), std::move(progress), std::move(done)));
  transfer->Check();
  for (std::size_t lane = 0; lane < transfer->batch_.lanes.size(); lane++) {
    const auto& pair = transfer->batch_.lanes[lane].pair;
    pair->loop().Enlist(pair, transfer, lane);
  }
  // A batch without bytes has nothing that would end it.
  transfer->Settle(std::unique_lock<std::mutex>(transfer->mutex_));
  return transfer;
}

Transfer::Transfer(Batch batch, Progress progress, Done done)
    : batch_(std::move(batch)),
      progress_(std::move(progress)),
      last_progress_(Now()),
      pieces_(batch_.copies, batch_.piece_bytes),
      done_(std::move(done)),
      lane_failed_(batch_.lanes.size()),
      lanes_left_(batch_.lanes.size()) {}

void Transfer::Check() const {
  if (batch_.lanes.empty()) throw Error(ckpt::code::kInvalidArgument, "there are no queue pairs").WithField("lanes");
  if (batch_.piece_bytes == 0 || batch_.piece_bytes > (std::uint64_t{1} << 30)) {
    throw Error(ckpt::code::kInvalidArgument, "pieceBytes must be from 1 to 2^30").WithField("pieceBytes");
  }
  const std::size_t memories = batch_.lanes.front().local.size();
  for (const Lane& lane : batch_.lanes) {
    if (lane.local.size() != memories || lane.remote_keys.size() != batch_.remotes.size()) {
      throw Error(ckpt::code::kInvalidArgument, "every lane needs a key for every memory and region").WithField("lanes");
    }
    if (!lane.pair->connected()) throw Error(ckpt::code::kInvalidState, "a queue pair is not connected").WithField("lanes");
    for (std::size_t i = 0; i < memories; i++) {
      if (&lane.local[i]->context() != lane.pair->context().get()) {
        throw Error(ckpt::code::kInvalidArgument, "a memory is registered with a device that differs from its lane's")
            .WithField("lanes");
      }
      if (lane.local[i]->bytes() != batch_.lanes.front().local[i]->bytes()) {
        throw Error(ckpt::code::kInvalidArgument, "a memory's registrations differ in size").WithField("lanes");
      }
    }
  }
  for (std::size_t i = 0; i < batch_.copies.size(); i++) {
    const RemoteCopy& copy = batch_.copies[i];
    if (copy.remote >= batch_.remotes.size()) throw BadCopy(i, "names a region that does not exist");
    if (copy.local >= memories) throw BadCopy(i, "names a memory that does not exist");
    if (Outside(copy.remote_offset, copy.bytes, batch_.remotes[copy.remote].bytes))
      throw BadCopy(i, "leaves the peer's region");
    if (Outside(copy.local_offset, copy.bytes, batch_.lanes.front().local[copy.local]->bytes()))
      throw BadCopy(i, "leaves the memory");
  }
}

void Transfer::Cancel() { Fail(std::make_exception_ptr(Error(ckpt::code::kAborted, "the batch was cancelled"))); }

void Transfer::Fail(std::exception_ptr error) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!error_) error_ = std::move(error);
  Settle(std::move(lock));
}

bool Transfer::Take(RemoteCopy& piece) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (error_ || !done_ || !pieces_.Take(piece)) return false;
  under_way_++;
  return true;
}

void Transfer::Describe(std::size_t lane, const RemoteCopy& piece, ibv_send_wr& request, ibv_sge& element) const {
  const Region& region = *batch_.lanes[lane].local[piece.local];
  element = {};
  element.addr = region.address() + piece.local_offset;
  element.length = static_cast<std::uint32_t>(piece.bytes);
  element.lkey = region.local_key();
  request = {};
  request.opcode = batch_.direction == Direction::kRead ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED;
  request.sg_list = &element;
  request.num_sge = 1;
  request.wr.rdma.remote_addr = batch_.remotes[piece.remote].address + piece.remote_offset;
  request.wr.rdma.rkey = batch_.lanes[lane].remote_keys[piece.remote];
}

void Transfer::Completed(const RemoteCopy& piece) {
  last_progress_.store(Now(), std::memory_order_relaxed);
  std::unique_lock<std::mutex> lock(mutex_);
  under_way_--;
  moved_ += piece.bytes;
  if (progress_) progress_(moved_);
  Settle(std::move(lock));
}

void Transfer::Returned(const RemoteCopy& piece) {
  std::unique_lock<std::mutex> lock(mutex_);
  under_way_--;
  pieces_.Return(piece);
  Settle(std::move(lock));
}

void Transfer::LaneFailed(std::size_t lane, const WorkError& error) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!lane_failed_[lane]) {
    lane_failed_[lane] = true;
    lanes_left_--;
  }
  if (!lane_error_) lane_error_ = std::make_exception_ptr(error);
  if (!error_ && (!MayGoElsewhere(static_cast<ibv_wc_status>(error.error_number())) || lanes_left_ == 0)) {
    error_ = lanes_left_ == 0 && MayGoElsewhere(static_cast<ibv_wc_status>(error.error_number()))
                 ? lane_error_
                 : std::make_exception_ptr(error);
  }
  Settle(std::move(lock));
}

bool Transfer::CheckDeadline(std::int64_t now) {
  if (now - last_progress_.load(std::memory_order_relaxed) < batch_.timeout_ns) return false;
  std::unique_lock<std::mutex> lock(mutex_);
  if (!done_) return false;
  if (!error_) {
    const std::string text = "nothing moved for " + std::to_string(batch_.timeout_ns / 1000000) + " ms; " +
                             std::to_string(moved_) + " of " + std::to_string(pieces_.bytes()) + " bytes were";
    error_ = std::make_exception_ptr(Error(code::kPeerLost, text));
  }
  Settle(std::move(lock));
  return true;
}

bool Transfer::failing() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_ != nullptr;
}

void Transfer::Settle(std::unique_lock<std::mutex> lock) {
  const bool moved_all = moved_ == pieces_.bytes();
  if (!done_ || under_way_ > 0 || !(moved_all || error_)) return;
  const Done done = std::exchange(done_, nullptr);
  // All bytes have arrived: an error after the last of them changes nothing.
  const std::exception_ptr error = moved_all ? nullptr : error_;
  const std::uint64_t moved = moved_;
  ended_.store(true, std::memory_order_release);
  lock.unlock();
  done(error, moved);
}

}  // namespace ckpt::rdma
