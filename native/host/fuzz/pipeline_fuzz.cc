// Pipelines: plans with any numbers, and a peer whose ring holds and turns into anything while the run goes on. A run must end,
// with a failure or without, and touch nothing outside rings and sources.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "fuzz.h"
#include "pipeline.h"

namespace {

using namespace ckpt;
using namespace ckpt;
using namespace ckpt::host;

constexpr std::size_t kData = 64 * 1024;
constexpr std::size_t kSource = 16 * 1024;
constexpr std::size_t kRing = kRingDataOffset + kData;
constexpr auto kLongest = std::chrono::seconds(10);

struct World {
  std::byte* rings[2];
  std::byte* source;

  World() {
    for (auto& ring : rings) ring = Guarded(kRing);
    source = Guarded(kSource);
  }

  /// Memory with a page behind it that may not be touched.
  static std::byte* Guarded(std::size_t bytes) {
    void* base = mmap(nullptr, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(static_cast<char*>(base) + bytes, 4096, PROT_NONE) != 0) std::abort();
    return static_cast<std::byte*>(base);
  }
};

std::optional<PreparedPipeline> Prepare(FuzzedDataProvider& data, World& world, bool plausible) {
  PipelineSpec spec;
  const auto own = ViewRing(world.rings[0], kRing, nullptr);
  const auto peer = ViewRing(world.rings[1], kRing, nullptr);
  if (!own) fuzz::Broken("an own ring is no ring");
  spec.rings.push_back(*own);
  // A peer whose ring says nonsense is refused before it comes so far.
  if (peer && data.ConsumeBool()) spec.rings.push_back(*peer);
  spec.position = plausible ? 0 : data.ConsumeIntegralInRange<std::uint32_t>(0, 2);
  spec.sources.push_back({world.source, kSource, nullptr});
  const auto buckets = data.ConsumeIntegralInRange<std::size_t>(0, 5);
  std::uint64_t at = 0;
  for (std::size_t b = 0; b < buckets; b++) {
    PipelineBucket bucket;
    spec.first_copy.push_back(static_cast<std::uint32_t>(spec.copies.size()));
    if (plausible) {
      bucket.owner = data.ConsumeIntegralInRange<std::uint32_t>(0, static_cast<std::uint32_t>(spec.rings.size() - 1));
      bucket.bytes = data.ConsumeIntegralInRange<std::uint64_t>(0, kData / 4);
      if (at + bucket.bytes > kData) at = 0;
      bucket.ring_offset = at;
      bucket.after = static_cast<std::int64_t>(b) - 1;
      at += bucket.bytes;
    } else {
      bucket.owner = data.ConsumeIntegralInRange<std::uint32_t>(0, 2);
      bucket.bytes = fuzz::Number(data, kData);
      bucket.ring_offset = fuzz::Number(data, kData);
      bucket.after = data.ConsumeIntegralInRange<std::int64_t>(-2, 5);
    }
    spec.buckets.push_back(bucket);
    if (plausible && (bucket.owner != 0 || bucket.bytes == 0)) continue;
    for (auto copies = data.ConsumeIntegralInRange<int>(0, 2); copies > 0; copies--) {
      const auto source = data.ConsumeIntegralInRange<std::uint32_t>(0, plausible ? 0 : 1);
      spec.copies.push_back(
          {source, fuzz::Number(data, kSource), fuzz::Number(data, bucket.bytes), fuzz::Number(data, kSource)});
    }
  }
  spec.first_copy.push_back(static_cast<std::uint32_t>(spec.copies.size()));
  if (!plausible && data.ConsumeBool() && !spec.first_copy.empty()) {
    spec.first_copy[data.ConsumeIntegralInRange<std::size_t>(0, spec.first_copy.size() - 1)] =
        data.ConsumeIntegral<std::uint32_t>();
  }
  spec.chunk_bytes = plausible ? 1 + data.ConsumeIntegralInRange<std::uint64_t>(0, kData) : fuzz::Number(data, kData);
  spec.serial = data.ConsumeBool();
  spec.timeout_ms = 1 + data.ConsumeIntegralInRange<std::uint64_t>(0, 3);
  spec.generation = plausible ? 2 : data.ConsumeIntegral<std::uint8_t>();
  try {
    return PreparePipeline(std::move(spec));
  } catch (const Error& error) {
    if (error.code() != code::kInvalidArgument) fuzz::Broken(error.code() + ": " + error.what());
    return std::nullopt;
  }
}

/// A peer that writes what it likes into its control page.
void Misbehave(FuzzedDataProvider& data, std::byte* ring) {
  auto* control = reinterpret_cast<RingControl*>(ring);
  for (int steps = data.ConsumeIntegralInRange<int>(0, 12); steps > 0; steps--) {
    RingCounter* const counters[] = {&control->generation, &control->produced, &control->received, &control->released,
                                     &control->aborted};
    switch (data.ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
        control->generation.Publish(data.ConsumeIntegralInRange<std::uint64_t>(0, 4));
        break;
      case 1:
        counters[data.ConsumeIntegralInRange<int>(1, 3)]->Publish(fuzz::Number(data, kData));
        break;
      case 2: {
        // Only the control page is touched, and only by atomic words: a race by design is no finding.
        auto& waiting = control->waiting[data.ConsumeIntegralInRange<int>(0, 1)];
        waiting.what.store(data.ConsumeIntegral<std::uint64_t>());
        waiting.need.store(data.ConsumeIntegral<std::uint64_t>());
        break;
      }
      case 3:
        AbortRun(*control, data.ConsumeIntegralInRange<std::uint64_t>(0, 4), data.ConsumeIntegral<std::uint32_t>(),
                 data.ConsumeRandomLengthString(600));
        break;
      default:
        counters[data.ConsumeIntegralInRange<int>(0, 4)]->Wake();
    }
  }
}

void Run(FuzzedDataProvider& data, PreparedPipeline prepared, World& world) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::uint32_t> delivered;
  bool finished = false;
  const auto count = prepared.spec.buckets.size();
  PipelineEvents events;
  events.on_bucket = [&](std::uint32_t bucket) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (bucket != delivered.size() || bucket >= count) fuzz::Broken("buckets are delivered out of order");
    delivered.push_back(bucket);
    changed.notify_all();
  };
  events.on_finished = [&](const std::optional<Error>&, const PipelineStats&) {
    const std::lock_guard<std::mutex> lock(mutex);
    finished = true;
    changed.notify_all();
  };
  Pipeline pipeline(std::move(prepared), std::move(events));
  Misbehave(data, world.rings[1]);
  const bool lazy = data.ConsumeBool();
  if (data.ConsumeBool()) pipeline.Abort(Error(code::kAborted, "the fuzzer says so"));
  std::unique_lock<std::mutex> lock(mutex);
  const auto deadline = std::chrono::steady_clock::now() + kLongest;
  std::size_t released = 0;
  const auto more = [&] { return finished || (!lazy && released < delivered.size()); };
  while (true) {
    if (!changed.wait_until(lock, deadline, more)) fuzz::Broken("a run does not end");
    if (finished) return;
    const auto bucket = delivered[released++];
    lock.unlock();
    pipeline.Release(bucket);
    lock.lock();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static auto* world = new World();
  FuzzedDataProvider data(bytes, size);
  for (auto* ring : world->rings) InitialiseRing(ring, kData);
  const bool plausible = data.ConsumeBool();
  if (!plausible) {
    // What stands where a peer's ring should be.
    const auto head = data.ConsumeBytes<std::uint8_t>(data.ConsumeIntegralInRange<std::size_t>(0, sizeof(RingControl)));
    auto* ring = world->rings[1];
    std::copy(head.begin(), head.end(), reinterpret_cast<std::uint8_t*>(ring));
    if (data.ConsumeBool()) reinterpret_cast<RingControl*>(ring)->magic.store(kRingMagic);
    const auto mapped = data.ConsumeIntegralInRange<std::size_t>(0, kRing);
    const auto view = ViewRing(ring, mapped, nullptr);
    if (view &&
        (view->data < ring || view->bytes > mapped || view->data - ring > static_cast<std::ptrdiff_t>(mapped - view->bytes))) {
      fuzz::Broken("a ring reaches past its memory");
    }
  }
  auto prepared = Prepare(data, *world, plausible);
  if (prepared) Run(data, std::move(*prepared), *world);
  return 0;
}
