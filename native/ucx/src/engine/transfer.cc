#include "transfer.h"

#include <chrono>

#include "loop.h"

namespace ckpt::ucx {
namespace {

bool Outside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) { return offset > size || bytes > size - offset; }

Error BadCopy(std::size_t index, const std::string& what) {
  return Error(code::kInvalidArgument, "transfer " + std::to_string(index) + " " + what).WithField("transfers");
}

void Check(const Batch& batch) {
  if (batch.piece_bytes == 0 || batch.piece_bytes > (std::uint64_t{1} << 40)) {
    throw Error(code::kInvalidArgument, "pieceBytes must be from 1 to 2^40").WithField("pieceBytes");
  }
  if (batch.depth == 0 || batch.depth > (1 << 16)) {
    throw Error(code::kInvalidArgument, "depth must be from 1 to 2^16").WithField("depth");
  }
  for (std::size_t i = 0; i < batch.copies.size(); i++) {
    const RemoteCopy& copy = batch.copies[i];
    if (copy.remote >= batch.remotes.size()) throw BadCopy(i, "names a region that does not exist");
    if (copy.local >= batch.locals.size()) throw BadCopy(i, "names a memory that does not exist");
    if (Outside(copy.remote_offset, copy.bytes, batch.remotes[copy.remote].bytes)) throw BadCopy(i, "leaves the peer's region");
    if (Outside(copy.local_offset, copy.bytes, batch.locals[copy.local]->bytes())) throw BadCopy(i, "leaves the memory");
  }
  for (const auto& local : batch.locals) {
    if (&local->loop() != batch.link->loop) {
      throw Error(code::kInvalidArgument, "a memory is registered with a worker that differs from its peer's")
          .WithField("local");
    }
  }
}

}  // namespace

std::int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Transfer::Transfer(Batch given, Progress on_progress, Done on_done)
    : batch(std::move(given)),
      progress(std::move(on_progress)),
      done(std::move(on_done)),
      pieces(batch.copies, batch.piece_bytes),
      keys(batch.remotes.size()),
      last_progress(Now()) {
  Check(batch);
}

void Transfer::Fail(const Error& reason) {
  if (error == nullptr) error = std::make_exception_ptr(reason);
}

void Transfer::End() {
  // The error is handed on, not shared: whoever gets it may release it on a different thread.
  std::exception_ptr reason = std::exchange(error, nullptr);
  done(complete() ? nullptr : std::move(reason), moved);
}

}  // namespace ckpt::ucx
