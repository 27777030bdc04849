// Random plans, verified byte by byte on every member, with workers that are late at random.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "member.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

constexpr std::size_t kSourceBytes[] = {24 << 20, 8 << 20, 3000001};

Plan RandomPlan(unsigned seed, std::uint32_t size) {
  std::mt19937 random(seed);
  const auto pick = [&](std::uint64_t low, std::uint64_t high) { return low + random() % (high - low + 1); };
  Plan plan;
  plan.ring_bytes = pick(4, 12) << 20;
  plan.chunk_bytes = pick(1, 12) * 131072;
  plan.serial = seed % 5 == 4;
  if (seed % 3 == 1) plan.order = Order::kAlternating;
  std::uint64_t cursor = 0;
  const auto count = pick(1, 30);
  for (std::uint32_t b = 0; b < count; b++) {
    const std::uint64_t bytes = pick(0, 19) == 0 ? 0 : pick(1, pick(0, 3) == 0 ? 4000000 : 1500000);
    if (cursor + bytes > plan.ring_bytes) cursor = 0;
    std::int32_t after = -1;
    for (std::uint32_t e = 0; e < b; e++) {
      const ckpt::PipelineBucket& earlier = plan.buckets[e];
      if (earlier.ring_offset < cursor + bytes && cursor < earlier.ring_offset + earlier.bytes) after = static_cast<int>(e);
    }
    plan.buckets.push_back({static_cast<std::uint32_t>(pick(0, size - 1)), bytes, cursor, after});
    std::vector<ckpt::PipelineCopy> copies;
    const std::uint64_t most = pick(0, 1) == 0 ? 4000000 : 20000;
    for (std::uint64_t at = 0; at < bytes;) {
      const std::uint64_t length = std::min({bytes - at, pick(1, most), std::uint64_t{2000000}});
      const auto source = static_cast<std::uint32_t>(pick(0, 2));
      copies.push_back({source, pick(0, kSourceBytes[source] - length), at, length});
      at += length;
    }
    plan.copies.push_back(std::move(copies));
    cursor += bytes;
  }
  return plan;
}

/// Whose bytes they could be: the first of them, in hexadecimal.
void DumpBytes(const std::vector<std::byte>& bytes, std::size_t from, std::size_t to) {
  constexpr std::size_t kMost = 512;
  for (std::size_t at = from; at < std::min(to, from + kMost); at++) {
    std::fprintf(stderr, "%02x%s", static_cast<unsigned>(bytes[at]),
                 (at - from) % 32 == 31 ? "\n"
                 : (at - from) % 8 == 7 ? " "
                                        : "");
  }
  std::fprintf(stderr, "\n");
}

/// What a wrong bucket looks like: enough to tell bytes that came late from bytes that came from a wrong place.
void Describe(const Plan& plan, std::uint32_t bucket, unsigned seed, const std::vector<std::byte>& got,
              const std::vector<std::byte>& later, const std::vector<std::vector<std::byte>>& contents,
              const std::vector<Job::Source>* own) {
  std::fprintf(
      stderr,
      "plan %u: ring %llu, chunks of %llu, %zu buckets, serial %d, order %d; bucket %u of member %u: %llu bytes at %llu\n",
      seed, static_cast<unsigned long long>(plan.ring_bytes), static_cast<unsigned long long>(plan.chunk_bytes),
      plan.buckets.size(), plan.serial ? 1 : 0, static_cast<int>(plan.order), bucket, plan.buckets[bucket].owner,
      static_cast<unsigned long long>(plan.buckets[bucket].bytes),
      static_cast<unsigned long long>(plan.buckets[bucket].ring_offset));
  std::size_t number = 0;
  for (const ckpt::PipelineCopy& copy : plan.copies[bucket]) {
    const std::byte* expected = contents[copy.source].data() + copy.source_offset;
    std::uint64_t wrong = 0, zero = 0, still = 0, first = copy.bytes, last = 0;
    for (std::uint64_t i = 0; i < copy.bytes; i++) {
      const std::byte byte = got[copy.bucket_offset + i];
      if (byte == expected[i]) continue;
      wrong++;
      zero += byte == std::byte{0} ? 1 : 0;
      still += later[copy.bucket_offset + i] != expected[i] ? 1 : 0;
      first = std::min(first, i);
      last = i;
    }
    if (wrong > 0) {
      const char* source = own == nullptr ? "elsewhere"
                           : std::memcmp((*own)[copy.source].data + copy.source_offset, expected, copy.bytes) == 0
                               ? "right"
                               : "wrong as well";
      std::fprintf(
          stderr,
          "  copy %zu, %llu bytes at %llu from %llu of source %u: %llu wrong (%llu zero) from %llu to %llu, %llu still "
          "wrong after 100 ms; source %s\n",
          number, static_cast<unsigned long long>(copy.bytes), static_cast<unsigned long long>(copy.bucket_offset),
          static_cast<unsigned long long>(copy.source_offset), copy.source, static_cast<unsigned long long>(wrong),
          static_cast<unsigned long long>(zero), static_cast<unsigned long long>(first), static_cast<unsigned long long>(last),
          static_cast<unsigned long long>(still), source);
      DumpBytes(got, copy.bucket_offset + first, copy.bucket_offset + last + 1);
    }
    number++;
  }
}

}  // namespace

int RunRandom(Member& member) {
  member.context->MakeCurrent();
  if (member.size > 1) member.Join(0);
  // Contents of every owner's sources, and this member's own in pinned memory.
  std::vector<std::vector<std::vector<std::byte>>> contents(member.size);
  std::vector<std::unique_ptr<Pinned>> own;
  for (std::uint32_t owner = 0; owner < member.size; owner++) {
    for (std::uint32_t s = 0; s < 3; s++) {
      std::vector<std::byte> bytes(kSourceBytes[s]);
      Fill(member.pool, bytes.data(), bytes.size(), owner * 3 + s + 1);
      if (owner == member.position) {
        own.push_back(std::make_unique<Pinned>(member.context, member.pool, bytes.size(), 2));
        std::memcpy(own.back()->data(), bytes.data(), bytes.size());
      }
      contents[owner].push_back(std::move(bytes));
    }
  }
  std::vector<Job::Source> sources;
  for (const auto& pinned : own) sources.push_back({pinned->data(), pinned->bytes(), pinned->slice_bytes()});
  const auto ring = std::make_shared<DeviceMemory>(member.context, 12 << 20);
  const Driver& driver = Driver::Get();
  std::uint64_t verified = 0;
  const char* wanted = std::getenv("CKPT_CHECK_PLANS");
  const unsigned plans = wanted != nullptr ? static_cast<unsigned>(std::atoi(wanted)) : 60;
  for (unsigned seed = 0; seed < plans; seed++) {
    const Plan plan = RandomPlan(seed, member.size);
    std::mt19937 random(seed * 7 + member.position);
    const Outcome outcome =
        member.Run(plan.JobOf(member.position, member.size, sources, 20000), ring, [&](std::uint32_t b, Pipeline& pipeline) {
          member.context->MakeCurrent();
          std::vector<std::byte> got(plan.buckets[b].bytes);
          const auto download = [&](std::vector<std::byte>& to) {
            if (to.empty()) return;
            driver.Check(driver.api().memcpyDtoHAsync(to.data(), ring->pointer() + plan.buckets[b].ring_offset, to.size(),
                                                      member.reload->get()),
                         "download");
            member.reload->Synchronize();
          };
          download(got);
          const std::uint32_t owner = plan.buckets[b].owner;
          const bool right = std::all_of(plan.copies[b].begin(), plan.copies[b].end(), [&](const ckpt::PipelineCopy& copy) {
            const std::byte* expected = contents[owner][copy.source].data() + copy.source_offset;
            return std::memcmp(got.data() + copy.bucket_offset, expected, copy.bytes) == 0;
          });
          if (!right) {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            std::vector<std::byte> later(got.size());
            download(later);
            Describe(plan, b, seed, got, later, contents[owner], owner == member.position ? &sources : nullptr);
          }
          Require(right, "bytes of bucket " + std::to_string(b) + ", plan " + std::to_string(seed));
          verified += plan.buckets[b].bytes;
          if (seed % 3 == member.position) std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
          pipeline.Release(b);
        });
    Require(!outcome.failure, "plan " + std::to_string(seed) + ": " + (outcome.failure ? outcome.failure->what() : ""));
  }
  std::printf("[%u] %u random plans of %u members: %.1f MB verified byte by byte\n", member.position, plans, member.size,
              static_cast<double>(verified) / 1e6);
  return 0;
}

}  // namespace check
