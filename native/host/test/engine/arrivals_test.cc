// Pipelines whose bytes come while they run, into the sources or into the ring; for sanitizer runs.
#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cluster.h"
#include "code_of.h"
#include "pipeline.h"

using namespace ckpt;
using namespace ckpt::host;
using namespace ckpt::host::test;

namespace {

constexpr std::uint32_t kBuckets = 40;
constexpr std::uint64_t kRingBytes = 10'000;

std::byte ByteOf(std::uint32_t bucket, std::uint64_t at) { return static_cast<std::byte>((bucket * 37 + at * 11) & 255); }

/// Two members that own buckets in turn; three buckets fit the ring.
PipelineSpec Spec(const SharedMemory& memory, std::uint32_t position, ArriveIn arrive_in, std::vector<std::byte>& source) {
  PipelineSpec spec;
  spec.position = position;
  for (std::uint32_t i = 0; i < memory.members(); ++i) spec.rings.push_back(memory.Ring(i));
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> starts;
  for (std::uint32_t b = 0; b < kBuckets; ++b) {
    const std::uint64_t bytes = 2500 + b * 13;
    if (offset + bytes > kRingBytes) offset = 0;
    std::int32_t after = -1;
    for (std::uint32_t a = 0; a < b; ++a) {
      if (starts[a] < offset + bytes && offset < starts[a] + 2500 + a * 13) after = static_cast<std::int32_t>(a);
    }
    starts.push_back(offset);
    spec.buckets.push_back({b % memory.members(), bytes, offset, after});
    spec.first_copy.push_back(static_cast<std::uint32_t>(spec.copies.size()));
    if (arrive_in == ArriveIn::kSources && b % memory.members() == position) spec.copies.push_back({0, b * 4096ull, 0, bytes});
    offset += bytes;
  }
  spec.first_copy.push_back(static_cast<std::uint32_t>(spec.copies.size()));
  source.resize(kBuckets * 4096ull);
  spec.sources.push_back({source.data(), source.size(), nullptr});
  spec.chunk_bytes = 700;
  spec.timeout_ms = 20'000;
  spec.generation = 1;
  spec.arrive_in = arrive_in;
  return spec;
}

/// One member: a thread stands for the network, which brings buckets late and (into the sources) out of order.
void RunMember(const SharedMemory& memory, std::uint32_t position, ArriveIn arrive_in) {
  std::vector<std::byte> source;
  auto spec = Spec(memory, position, arrive_in, source);
  const auto buckets = spec.buckets;
  const auto ring = memory.Ring(position);
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::uint32_t> writable, delivered;
  bool finished = false;
  std::optional<ckpt::Error> failure;
  ckpt::PipelineStats stats;
  const auto push = [&](std::vector<std::uint32_t>& list) {
    return [&](std::uint32_t bucket) {
      const std::lock_guard<std::mutex> lock(mutex);
      list.push_back(bucket);
      wake.notify_all();
    };
  };
  Pipeline pipeline(PreparePipeline(std::move(spec)),
                    PipelineEvents{push(delivered),
                                   [&](std::optional<ckpt::Error> error, ckpt::PipelineStats ended) {
                                     const std::lock_guard<std::mutex> lock(mutex);
                                     failure = std::move(error);
                                     stats = std::move(ended);
                                     finished = true;
                                     wake.notify_all();
                                   },
                                   push(writable)});
  std::thread network([&] {
    std::mt19937 random(position);
    const auto bring = [&](std::byte* target, std::uint32_t bucket) {
      for (std::uint64_t at = 0; at < buckets[bucket].bytes; ++at) target[at] = ByteOf(bucket, at);
      pipeline.Arrived(bucket);
    };
    std::vector<std::uint32_t> own;
    for (std::uint32_t b = position; b < kBuckets; b += memory.members()) own.push_back(b);
    if (arrive_in == ArriveIn::kSources) {
      for (std::size_t i = 0; i + 1 < own.size(); i += 2) std::swap(own[i], own[i + 1]);
    }
    for (std::size_t i = 0; i < own.size(); ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
      if (arrive_in == ArriveIn::kSources) {
        bring(source.data() + own[i] * 4096ull, own[i]);
        continue;
      }
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return writable.size() > i; });
      REQUIRE(writable[i] == own[i]);
      lock.unlock();
      bring(ring.data + buckets[own[i]].ring_offset, own[i]);
    }
  });
  for (std::uint32_t expected = 0; expected < kBuckets; ++expected) {
    std::unique_lock<std::mutex> lock(mutex);
    wake.wait(lock, [&] { return delivered.size() > expected || finished; });
    REQUIRE((!finished && delivered[expected] == expected));
    lock.unlock();
    for (std::uint64_t at = 0; at < buckets[expected].bytes; ++at) {
      REQUIRE(ring.data[buckets[expected].ring_offset + at] == ByteOf(expected, at));
    }
    pipeline.Release(expected);
  }
  network.join();
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return finished; });
  REQUIRE(!failure);
  REQUIRE(stats.h2d_bytes > 0);
}

void TestArrivals(ArriveIn arrive_in) {
  for (const std::uint32_t members : {1u, 2u}) {
    const SharedMemory memory(members, kRingBytes);
    std::vector<std::function<void()>> tasks;
    for (std::uint32_t i = 0; i < members; ++i)
      tasks.emplace_back([&memory, i, arrive_in] { RunMember(memory, i, arrive_in); });
    RunThreads(tasks);
  }
}

/// A bucket that never comes ends the run in time, and an abort ends a wait for one at once.
void TestMissing() {
  for (const bool abort : {false, true}) {
    const SharedMemory memory(1, kRingBytes);
    std::vector<std::byte> source;
    auto spec = Spec(memory, 0, ArriveIn::kSources, source);
    if (!abort) spec.timeout_ms = 200;
    std::mutex mutex;
    std::condition_variable wake;
    std::optional<ckpt::Error> failure;
    Pipeline pipeline(PreparePipeline(std::move(spec)),
                      PipelineEvents{[](std::uint32_t) {},
                                     [&](std::optional<ckpt::Error> error, const ckpt::PipelineStats&) {
                                       const std::lock_guard<std::mutex> lock(mutex);
                                       failure = std::move(error);
                                       wake.notify_all();
                                     }});
    REQUIRE(CodeOf([&] { pipeline.Arrived(kBuckets); }) == "INVALID_ARGUMENT");
    pipeline.Arrived(1);
    REQUIRE(CodeOf([&] { pipeline.Arrived(1); }) == "INVALID_STATE");
    if (abort) pipeline.Abort(ckpt::Error(ckpt::code::kAborted, "told to"));
    std::unique_lock<std::mutex> lock(mutex);
    REQUIRE(wake.wait_for(lock, std::chrono::seconds(10), [&] { return failure.has_value(); }));
    REQUIRE(failure->code() == (abort ? "ABORTED" : "TIMEOUT"));
    if (!abort) REQUIRE(std::string(failure->what()).find("the arrival of bucket 0") != std::string::npos);
  }
}

}  // namespace

TEST_CASE("arrivals: into the sources") { TestArrivals(ArriveIn::kSources); }
TEST_CASE("arrivals: into the ring") { TestArrivals(ArriveIn::kRing); }
TEST_CASE("arrivals: that do not come") { TestMissing(); }
