#pragma once

#include <atomic>

#include "ckpt/error.h"

namespace ckpt {

/// A flag that asks running work to stop at its next opportunity. Shared between the canceller and the work.
class Cancellation {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  /// @throws Error ABORTED once cancelled.
  void Check() const {
    if (cancelled()) throw Error(code::kAborted, "the operation was cancelled");
  }

 private:
  std::atomic<bool> cancelled_{false};
};

}  // namespace ckpt
