// How fast it goes: the H2D ceiling of all members at once, then the pipeline on the same bytes.
#include <algorithm>
#include <cinttypes>
#include <thread>

#include "kernels.h"
#include "member.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

constexpr std::size_t kGiB = std::size_t{1} << 30;

Plan RatePlan(std::uint32_t size, std::uint64_t per_member, std::uint64_t ring_bytes, std::uint64_t bucket_bytes,
              std::uint64_t chunk_bytes, std::uint64_t piece_bytes) {
  Plan plan;
  plan.ring_bytes = ring_bytes;
  plan.chunk_bytes = chunk_bytes;
  const auto slots = static_cast<std::int32_t>(ring_bytes / bucket_bytes);
  for (std::uint64_t at = 0; at < per_member; at += bucket_bytes) {
    for (std::uint32_t owner = 0; owner < size; owner++) {
      const auto b = static_cast<std::int32_t>(plan.buckets.size());
      plan.buckets.push_back(
          {owner, bucket_bytes, static_cast<std::uint64_t>(b % slots) * bucket_bytes, b < slots ? -1 : b - slots});
      std::vector<ckpt::PipelineCopy> copies;
      // Pieces in swapped pairs, so that none can be merged with its neighbour.
      for (std::uint64_t p = 0; p * piece_bytes < bucket_bytes; p++) {
        const std::uint64_t other = piece_bytes == bucket_bytes ? p : p ^ 1;
        copies.push_back({0, at + other * piece_bytes, p * piece_bytes, piece_bytes});
      }
      plan.copies.push_back(std::move(copies));
    }
  }
  return plan;
}

double MeasureCeiling(Member& member, const Pinned& source, const DeviceMemory& ring) {
  const Driver& driver = Driver::Get();
  // A copy must not cross a slice of the registration.
  const std::size_t piece = std::min<std::size_t>({ring.bytes(), kGiB, source.slice_bytes()});
  Event begin(member.context), end(member.context);
  begin.Record(*member.h2d);
  for (std::size_t at = 0; at + piece <= source.bytes(); at += piece) {
    driver.Check(driver.api().memcpyHtoDAsync(ring.pointer(), source.data() + at, piece, member.h2d->get()), "copy");
  }
  end.Record(*member.h2d);
  member.h2d->Synchronize();
  return static_cast<double>(source.bytes()) / end.MillisecondsSince(begin) / 1e6;
}

}  // namespace

int RunRates(Member& member) {
  int barrier = 0;
  const auto meet = [&] { Barrier(member.board, barrier++, static_cast<int>(member.size)); };
  const char* wanted = std::getenv("CKPT_CHECK_BYTES");
  const std::uint64_t per_member = wanted == nullptr ? 8 * kGiB : std::strtoull(wanted, nullptr, 10);
  if (member.size > 1) member.Join(0);
  Pinned source(member.context, member.pool, per_member, 4);
  std::printf("[%u] %.1f GB touched in %.2f s, registered in %.3f s\n", member.position, static_cast<double>(per_member) / 1e9,
              source.touch_seconds, source.register_seconds);
  Fill(member.pool, source.data(), source.bytes(), member.position + 1);
  for (const unsigned threads : {1u, 2u, 4u, 8u}) {
    if (member.size > 1) break;
    for (const std::size_t slice : {kGiB, kGiB / 4, kGiB / 16}) {
      const Pinned again(member.context, member.pool, kGiB * 4, threads, slice);
      std::printf("    4 GiB registered by %u threads in slices of %zu MiB in %.3f s\n", threads, slice >> 20,
                  again.register_seconds);
    }
  }
  auto ring = std::make_shared<DeviceMemory>(member.context, kGiB);
  meet();
  MeasureCeiling(member, source, *ring);
  meet();
  const double ceiling = MeasureCeiling(member, source, *ring);
  member.board.figures[member.position][0] = ceiling;
  meet();
  double sum = 0;
  for (std::uint32_t m = 0; m < member.size; m++) sum += member.board.figures[m][0];
  std::printf("[%u] H2D ceiling, all members at once: %.2f GB/s\n", member.position, ceiling);

  // What the digests must be: read by the GPU straight from pinned host memory, some of them by the CPU.
  const auto kernels = std::make_shared<const Kernels>(member.context);
  struct Case {
    const char* name;
    std::uint64_t bucket, chunk, piece;
    bool digest;
  };
  const std::uint64_t whole = 128 << 20;
  const Case cases[] = {
      {"warm-up", whole, 32 << 20, whole, false},
      {"chunk 8 MiB", whole, 8 << 20, whole, false},
      {"chunk 16 MiB", whole, 16 << 20, whole, false},
      {"chunk 32 MiB", whole, 32 << 20, whole, false},
      {"chunk 64 MiB", whole, 64 << 20, whole, false},
      {"bucket 256 MiB", 256 << 20, 32 << 20, 256 << 20, false},
      {"bucket 64 MiB", 64 << 20, 16 << 20, 64 << 20, false},
      {"pieces of 4 MiB", whole, 32 << 20, 4 << 20, false},
      {"pieces of 1 MiB", whole, 32 << 20, 1 << 20, false},
      {"pieces of 256 KiB", whole, 32 << 20, 256 << 10, false},
      {"pieces of 64 KiB", whole, 32 << 20, 64 << 10, false},
      {"digest as reload", whole, 32 << 20, whole, true},
  };
  const double limit = static_cast<double>(per_member) * member.size / sum / 1e6;
  for (const Case& c : cases) {
    const Plan plan = RatePlan(member.size, per_member, kGiB, c.bucket, c.chunk, c.piece);
    std::vector<std::uint64_t> digests(plan.buckets.size(), 0);
    const Job job = plan.JobOf(member.position, member.size, {{source.data(), source.bytes(), source.slice_bytes()}}, 20000);
    meet();
    const Outcome outcome = member.Run(job, ring, [&](std::uint32_t b, Pipeline& pipeline) {
      if (c.digest)
        digests[b] =
            kernels->Digest({{ring->pointer() + plan.buckets[b].ring_offset, plan.buckets[b].bytes}}, *member.reload)[0];
      pipeline.Release(b);
    });
    Require(!outcome.failure, std::string(c.name) + ": " + (outcome.failure ? outcome.failure->what() : ""));
    std::printf("[%u] %-18s %.1f ms, %.3f x the limit of %.1f ms; h2d %.1f broadcast %.1f idle %.1f ms, %zu spans\n",
                member.position, c.name, outcome.seconds * 1e3, outcome.seconds * 1e3 / limit, limit, outcome.stats.h2d_ms,
                outcome.stats.broadcast_ms, outcome.stats.idle_ms, outcome.stats.spans.size());
    if (!c.digest) continue;
    // Own buckets: digest straight from the source. Others' digests are on the board's neighbour: compare sums of all.
    std::uint64_t all = 0;
    for (std::uint32_t b = 0; b < plan.buckets.size(); b++) {
      all = all * 31 + digests[b];
      if (plan.buckets[b].owner != member.position) continue;
      const ckpt::PipelineCopy& copy = plan.copies[b][0];
      const auto address = reinterpret_cast<abi::DevicePointer>(source.data() + copy.source_offset);
      Require(kernels->Digest({{address, copy.bytes}}, *member.reload)[0] == digests[b], "digest of an own bucket");
      if (b < 4) Require(DigestOnCpu(source.data() + copy.source_offset, copy.bytes) == digests[b], "digest by the CPU");
    }
    std::printf("[%u] digest of all buckets %016" PRIx64 "\n", member.position, all);
    member.board.figures[member.position][1] = static_cast<double>(all >> 12);
    meet();
    for (std::uint32_t m = 0; m < member.size; m++) {
      Require(member.board.figures[m][1] == static_cast<double>(all >> 12), "members agree on all digests");
    }
  }
  meet();
  return 0;
}

}  // namespace check
