#include "pipeline_stats.h"

#include <algorithm>
#include <utility>

namespace ckpt::cuda {
namespace {

double UnionLength(std::vector<std::pair<double, double>> intervals) {
  std::sort(intervals.begin(), intervals.end());
  double length = 0, reached = 0;
  for (const auto& [start, end] : intervals) {
    const double from = std::max(start, reached);
    if (end > from) {
      length += end - from;
      reached = end;
    }
  }
  return length;
}

}  // namespace

void Summarize(PipelineStats& stats, double whole_ms) {
  std::vector<std::pair<double, double>> h2d, broadcast, all;
  for (const StageSpan& span : stats.spans) {
    (span.stage == Stage::kH2d ? h2d : broadcast).emplace_back(span.start, span.end);
    all.emplace_back(span.start, span.end);
  }
  stats.h2d_ms = UnionLength(std::move(h2d));
  stats.broadcast_ms = UnionLength(std::move(broadcast));
  stats.idle_ms = std::max(0.0, whole_ms - UnionLength(std::move(all)));
}

}  // namespace ckpt::cuda
