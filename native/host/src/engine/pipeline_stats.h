#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <utility>

#include "ckpt/pipeline.h"

namespace ckpt::host {

/// Collects the stats of a run from the threads of both stages.
class PipelineClock {
 public:
  explicit PipelineClock(std::size_t buckets) {
    stats_.spans.reserve(buckets);
    begin_ = idle_since_ = std::chrono::steady_clock::now();
  }

  double now() const noexcept { return Milliseconds(std::chrono::steady_clock::now() - begin_); }

  /// A copy begins; pass the result to Leave.
  std::chrono::steady_clock::time_point Enter() noexcept {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (busy_++ == 0) stats_.idle_ms += Milliseconds(now - idle_since_);
    return now;
  }

  void Leave(Stage stage, std::chrono::steady_clock::time_point entered, std::uint64_t bytes) noexcept {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) idle_since_ = now;
    (stage == Stage::kH2d ? stats_.h2d_ms : stats_.broadcast_ms) += Milliseconds(now - entered);
    (stage == Stage::kH2d ? stats_.h2d_bytes : stats_.broadcast_bytes) += bytes;
  }

  void Span(Stage stage, std::uint32_t bucket, double start, double end) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.spans.push_back({stage, bucket, start, end});
  }

  PipelineStats Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::move(stats_);
  }

 private:
  static double Milliseconds(std::chrono::steady_clock::duration duration) noexcept {
    return std::chrono::duration<double, std::milli>(duration).count();
  }

  std::mutex mutex_;
  std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point idle_since_;
  int busy_ = 0;
  PipelineStats stats_;
};

}  // namespace ckpt::host
