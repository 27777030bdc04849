#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ckpt::host {

enum class Stage : std::uint32_t { h2d = 0, broadcast = 1 };

/** Where the time of a run went; times in milliseconds since its start. */
struct PipelineStats {
  double h2dMs = 0;
  double broadcastMs = 0;
  double idleMs = 0;
  std::uint64_t h2dBytes = 0;
  std::uint64_t broadcastBytes = 0;
  /** Four numbers a span: stage, bucket, start, end. */
  std::vector<double> spans;
};

/** Collects the stats of a run from the threads of both stages. */
class PipelineClock {
 public:
  explicit PipelineClock(std::size_t buckets) {
    stats_.spans.reserve(buckets * 4);
    begin_ = idleSince_ = std::chrono::steady_clock::now();
  }

  double now() const noexcept { return milliseconds(std::chrono::steady_clock::now() - begin_); }

  /** A copy begins; give the result to `leave`. */
  std::chrono::steady_clock::time_point enter() noexcept {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (busy_++ == 0) stats_.idleMs += milliseconds(now - idleSince_);
    return now;
  }

  void leave(Stage stage, std::chrono::steady_clock::time_point entered, std::uint64_t bytes) noexcept {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) idleSince_ = now;
    (stage == Stage::h2d ? stats_.h2dMs : stats_.broadcastMs) += milliseconds(now - entered);
    (stage == Stage::h2d ? stats_.h2dBytes : stats_.broadcastBytes) += bytes;
  }

  void span(Stage stage, std::uint32_t bucket, double start, double end) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.spans.insert(stats_.spans.end(), {static_cast<double>(stage), static_cast<double>(bucket), start, end});
  }

  PipelineStats take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::move(stats_);
  }

 private:
  static double milliseconds(std::chrono::steady_clock::duration duration) noexcept {
    return std::chrono::duration<double, std::milli>(duration).count();
  }

  std::mutex mutex_;
  std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point idleSince_;
  int busy_ = 0;
  PipelineStats stats_;
};

}  // namespace ckpt::host
