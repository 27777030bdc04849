#pragma once

#include <cstdint>
#include <vector>

namespace ckpt::cuda {

enum class Stage : std::uint8_t { kH2d = 0, kBroadcast = 1 };

/// One chunk's time in one stage, in milliseconds since the pipeline's start, measured on the GPU.
struct Span {
  Stage stage;
  std::uint32_t bucket;
  double start;
  double end;
};

/// Where the time of a pipeline went; the native form of PipelineStats.
struct PipelineStats {
  double h2d_ms = 0;
  double broadcast_ms = 0;
  double idle_ms = 0;
  std::uint64_t h2d_bytes = 0;
  std::uint64_t broadcast_bytes = 0;
  std::vector<Span> spans;
};

/// Fills the busy times (the union of each stage's spans) and the idle time of a pipeline that took `whole_ms`.
void Summarize(PipelineStats& stats, double whole_ms);

}  // namespace ckpt::cuda
