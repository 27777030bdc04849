// The orders in which copies and broadcasts can lie, measured as a collective does before its first run, and on whole jobs.
#include "kernels.h"
#include "member.h"
#include "order_probe.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kBucket = 128 * kMiB;
constexpr std::uint64_t kRing = 8 * kBucket;

Plan OrderPlan(std::uint32_t size, std::uint64_t per_member) {
  Plan plan;
  plan.ring_bytes = kRing;
  for (std::uint64_t at = 0; at < per_member; at += kBucket) {
    for (std::uint32_t owner = 0; owner < size; owner++) {
      const auto b = static_cast<std::int32_t>(plan.buckets.size());
      plan.buckets.push_back({owner, kBucket, static_cast<std::uint64_t>(b % 8) * kBucket, b < 8 ? -1 : b - 8});
      plan.copies.push_back({{0, at, 0, kBucket}});
    }
  }
  return plan;
}

}  // namespace

int RunOrders(Member& member) {
  int barrier = 0;
  const auto meet = [&] { Barrier(member.board, barrier++, static_cast<int>(member.size)); };
  const char* wanted = std::getenv("CKPT_CHECK_BYTES");
  const std::uint64_t per_member = wanted == nullptr ? 2048 * kMiB : std::strtoull(wanted, nullptr, 10) / kBucket * kBucket;
  member.Join(0);
  Pinned source(member.context, member.pool, per_member, 4);
  Fill(member.pool, source.data(), source.bytes(), member.position + 1);
  auto ring = std::make_shared<DeviceMemory>(member.context, kRing);
  Plan plan = OrderPlan(member.size, per_member);
  const auto job = [&] {
    return plan.JobOf(member.position, member.size, {{source.data(), source.bytes(), source.slice_bytes()}}, 20000);
  };
  const PipelineParts parts{member.context, ring, member.h2d, member.broadcast, member.communicator};
  const ckpt::Cancellation never;
  const std::vector<OrderCandidate> first = {{Order::kOverlapped, 32 * kMiB, 32 * kMiB},
                                             {Order::kOverlapped, 32 * kMiB, 128 * kMiB},
                                             {Order::kAlternating, 32 * kMiB, 128 * kMiB}};
  std::vector<OrderCandidate> second;
  for (const Order order : {Order::kOverlapped, Order::kAlternating}) {
    for (const std::uint64_t chunk : {4 * kMiB, 8 * kMiB, 32 * kMiB, 128 * kMiB}) second.push_back({order, chunk, 256 * kMiB});
  }
  plan.chunk_bytes = 32 * kMiB;
  for (const auto& candidates : {first, second}) {
    meet();
    const auto start = Clock::now();
    const auto figures = MeasureOrders(parts, Schedule(job()), candidates, never);
    const double took = Seconds(Clock::now() - start) * 1e3;
    std::printf("[%u] %zu candidates measured in %.1f ms\n", member.position, candidates.size(), took);
    for (std::size_t i = 0; i < candidates.size(); i++) {
      Require(figures[i].whole > 0 && figures[i].broadcast > 0, "a candidate is measured");
      std::printf("[%u]   %s, %llu MiB by chunks of %llu MiB: %.2f ms; h2d %.2f broadcast %.2f\n", member.position,
                  candidates[i].order == Order::kOverlapped ? "overlapped" : "alternating",
                  static_cast<unsigned long long>(candidates[i].bytes / kMiB),
                  static_cast<unsigned long long>(candidates[i].chunk_bytes / kMiB), figures[i].whole, figures[i].h2d,
                  figures[i].broadcast);
    }
  }
  const Kernels kernels(member.context);
  for (int repeat = 0; repeat < 2; repeat++) {
    for (const OrderCandidate& candidate : second) {
      plan.order = candidate.order;
      plan.chunk_bytes = candidate.chunk_bytes;
      std::uint64_t all = 0;
      meet();
      const Outcome outcome = member.Run(job(), ring, [&](std::uint32_t b, Pipeline& pipeline) {
        if (repeat == 0)
          all = all * 31 + kernels.Digest({{ring->pointer() + plan.buckets[b].ring_offset, kBucket}}, *member.reload)[0];
        pipeline.Release(b);
      });
      Require(!outcome.failure, outcome.failure ? outcome.failure->what() : "");
      if (repeat == 1) {
        std::printf("[%u] whole job, %s by %llu MiB: %.1f ms; h2d %.1f broadcast %.1f idle %.1f\n", member.position,
                    candidate.order == Order::kOverlapped ? "overlapped" : "alternating",
                    static_cast<unsigned long long>(candidate.chunk_bytes / kMiB), outcome.seconds * 1e3, outcome.stats.h2d_ms,
                    outcome.stats.broadcast_ms, outcome.stats.idle_ms);
        continue;
      }
      member.board.figures[member.position][1] = static_cast<double>(all >> 12);
      meet();
      for (std::uint32_t m = 0; m < member.size; m++) {
        Require(member.board.figures[m][1] == static_cast<double>(all >> 12), "members agree on all digests");
      }
    }
  }
  meet();
  return 0;
}

}  // namespace check
