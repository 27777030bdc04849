#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ckpt::host {

enum class Stage : std::uint32_t { kH2d = 0, kBroadcast = 1 };

/// Where the time of a run went; times in milliseconds since its start.
struct PipelineStats {
  double h2d_ms = 0;
  double broadcast_ms = 0;
  double idle_ms = 0;
  std::uint64_t h2d_bytes = 0;
  std::uint64_t broadcast_bytes = 0;
  /// Four numbers a span: stage, bucket, start, end.
  std::vector<double> spans;
};

/// Collects the stats of a run from the threads of both stages.
class PipelineClock {
 public:
  explicit PipelineClock(std::size_t buckets) {
    stats_.spans.reserve(buckets * 4);
    begin_ = idle_since_ = std::chrono::steady_clock::now();
  }

  double now() const noexcept { return Milliseconds(std::chrono::steady_clock::now() - begin_); }

  /// A copy begins; give the result to Leave.
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
    stats_.spans.insert(stats_.spans.end(), {static_cast<double>(stage), static_cast<double>(bucket), start, end});
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
