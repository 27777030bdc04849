#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "ckpt/error.h"

namespace ckpt::host {

/// Which buckets have arrived. Thread-safe.
class Arrivals {
 public:
  explicit Arrivals(std::size_t buckets) : arrived_(buckets, false) {}

  /// @throws Error INVALID_STATE if the bucket has already arrived.
  void Add(std::uint32_t bucket) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (arrived_.at(bucket)) {
        throw Error(code::kInvalidState, "bucket " + std::to_string(bucket) + " has already arrived").WithField("bucket");
      }
      arrived_[bucket] = true;
      last_ = std::chrono::steady_clock::now();
    }
    wake_.notify_all();
  }

  void Wake() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }

  /// Waits for the bucket, for Wake or for a slice of time. @returns whether it has arrived.
  bool Await(std::uint32_t bucket, std::chrono::milliseconds slice) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!arrived_[bucket]) wake_.wait_for(lock, slice);
    return arrived_[bucket];
  }

  /// When the last bucket arrived.
  std::chrono::steady_clock::time_point last() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<bool> arrived_;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace ckpt::host
