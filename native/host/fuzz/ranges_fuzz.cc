// Lists of reads, copies and ranges as they come over the binding: nothing outside the memories may be touched, whatever the
// numbers. Memories end where an unreadable page begins.
#include <sys/mman.h>
#include <unistd.h>

#include "ckpt/cancellation.h"
#include "ckpt/worker_pool.h"
#include "copy.h"
#include "digest.h"
#include "fuzz.h"
#include "reader.h"

namespace {

using namespace ckpt;
using namespace ckpt;
using namespace ckpt::host;

constexpr std::size_t kPage = 4096;

/// `bytes` of memory whose end lies at a page that may not be touched.
std::shared_ptr<Mapping> Guarded(std::size_t pages) {
  const std::size_t length = (pages + 1) * kPage;
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) std::abort();
  if (mprotect(static_cast<char*>(base) + pages * kPage, kPage, PROT_NONE) != 0) std::abort();
  // The mapping owns what may be used; the guard page stays for good.
  return std::make_shared<Mapping>(Mapping::Kind::kAnonymous, "", ScopedMmap(base, pages * kPage));
}

struct World {
  WorkerPool pool{"fuzz", 2};
  std::vector<std::shared_ptr<Mapping>> memories{Guarded(1), Guarded(4), Guarded(160)};
  std::vector<FileToRead> files;

  World() {
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, std::size_t{70'000}}) {
      std::string path = "/tmp/ckpt-fuzz-" + std::to_string(getpid()) + "-" + std::to_string(bytes);
      FILE* file = std::fopen(path.c_str(), "w");
      if (file == nullptr) std::abort();
      const std::string text(bytes, 'x');
      if (std::fwrite(text.data(), 1, bytes, file) != bytes) std::abort();
      std::fclose(file);
      files.push_back({path, -1, std::nullopt});
    }
    std::atexit([] {
      for (const auto& file : Get().files) ::unlink(file.path.c_str());
    });
  }

  static World& Get() {
    static auto* world = new World();
    return *world;
  }
};

template <class Work>
void Allowed(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    const auto& code = error.code();
    if (code != code::kInvalidArgument && code != code::kCheckpointUnreadable) fuzz::Broken(code + ": " + error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  auto& world = World::Get();
  const Cancellation never;
  const unsigned threads = data.ConsumeIntegralInRange<unsigned>(0, 2);
  const auto count = data.ConsumeIntegralInRange<std::size_t>(0, 6);
  const auto index = [&] { return data.ConsumeIntegralInRange<std::size_t>(0, 3); };
  switch (data.ConsumeIntegralInRange<int>(0, 3)) {
    case 0: {
      std::vector<ContiguousCopy> reads;
      for (std::size_t i = 0; i < count; i++) {
        const auto length = fuzz::Number(data, 70'000);
        reads.push_back({index(), fuzz::Number(data, 70'000), index(), fuzz::Number(data, 160 * kPage), length});
      }
      std::vector<MemoryRange> digested;
      for (auto left = data.ConsumeIntegralInRange<std::size_t>(0, 3); left > 0; left--) {
        digested.push_back({index(), fuzz::Number(data, 160 * kPage), fuzz::Number(data, 70'000)});
      }
      Allowed([&] { ReadFiles(world.pool, threads, world.files, world.memories, reads, digested, {}, never); });
      break;
    }
    case 1: {
      // A copy within one memory must not overlap itself: sources and destinations are kept apart.
      std::vector<StridedCopy> copies;
      for (std::size_t i = 0; i < count; i++) {
        copies.push_back({data.ConsumeIntegralInRange<std::size_t>(0, 1), fuzz::Number(data, 4 * kPage),
                          fuzz::Number(data, kPage), data.PickValueInArray<std::size_t>({2, 3}),
                          fuzz::Number(data, 160 * kPage), fuzz::Number(data, kPage), fuzz::Number(data, kPage),
                          fuzz::Number(data, 16)});
      }
      // One at a time: the destinations of one list may not overlap.
      for (const auto& copy : copies) Allowed([&] { CopyStrided(world.pool, threads, world.memories, {copy}, never); });
      break;
    }
    case 2: {
      std::vector<MemoryRange> ranges;
      for (std::size_t i = 0; i < count; i++) {
        ranges.push_back({index(), fuzz::Number(data, 160 * kPage), fuzz::Number(data, 160 * kPage)});
      }
      Allowed([&] {
        const auto digests = DigestRanges(world.pool, threads, world.memories, ranges, never);
        for (std::size_t i = 0; i < ranges.size(); i++) {
          const auto& range = ranges[i];
          const auto alone = DigestBytes(world.memories[range.memory]->data() + range.offset, range.bytes);
          if (digests[i] != alone) fuzz::Broken("a digest depends on how the work is shared out");
        }
      });
      break;
    }
    default:
      Allowed([&] {
        FillRandom(world.pool, threads, *world.memories[2], fuzz::Number(data, 160 * kPage), fuzz::Number(data, 160 * kPage),
                   data.ConsumeIntegral<std::uint64_t>(), never);
      });
  }
  return 0;
}
