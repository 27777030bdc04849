// What pinning a file in /dev/shm costs, for one process and for one a GPU at once: as it is mapped, and with its pages put
// into the page table first, whole and in slices, on one thread and on several.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "member.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Way {
  const char* name;
  /// Threads that put pages into the page table first; 0: nobody does.
  unsigned populate;
  bool write;
  std::size_t slice_bytes;
  unsigned pin;
};

void OnThreads(unsigned threads, const std::function<void(unsigned)>& work) {
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; t++) all.emplace_back(work, t);
  for (std::thread& thread : all) thread.join();
}

/// Seconds for putting the pages in, and for pinning.
std::pair<double, double> Measure(Member& member, int file, std::size_t bytes, const Way& way) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  Require(memory != MAP_FAILED, "mmap of the file");
  auto* data = static_cast<std::byte*>(memory);
  const auto start = Clock::now();
  if (way.populate > 0) {
    constexpr std::size_t kPart = 64 * kMiB;
    OnThreads(way.populate, [&](unsigned t) {
      for (std::size_t at = t * kPart; at < bytes; at += way.populate * kPart) {
        madvise(data + at, std::min(kPart, bytes - at), way.write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
      }
    });
  }
  const auto populated = Clock::now();
  auto registration = std::make_unique<HostRegistration>(member.context, data, bytes, way.slice_bytes);
  registration->Pin(member.pool, way.pin, 0, registration->slices());
  const auto pinned = Clock::now();
  registration.reset();
  munmap(data, bytes);
  return {Seconds(populated - start), Seconds(pinned - populated)};
}

}  // namespace

int RunPins(Member& member) {
  int barrier = 0;
  const auto meet = [&] { Barrier(member.board, barrier++, static_cast<int>(member.size)); };
  const char* wanted = std::getenv("CKPT_CHECK_BYTES");
  const std::size_t bytes = wanted == nullptr ? std::size_t{4} << 30 : std::strtoull(wanted, nullptr, 10);
  const std::string path = "/dev/shm/ckpt-check-pins-" + std::to_string(getpid());
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  Require(file >= 0 && unlink(path.c_str()) == 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0, "a file in /dev/shm");
  void* filler = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  Require(filler != MAP_FAILED, "mmap of the file");
  OnThreads(8, [&](unsigned t) {
    const std::size_t part = (bytes + 7) / 8;
    if (t * part < bytes) std::memset(static_cast<std::byte*>(filler) + t * part, 1, std::min(part, bytes - t * part));
  });
  munmap(filler, bytes);
  member.context->MakeCurrent();
  const std::size_t whole = bytes;
  constexpr std::size_t kGiB = 1024 * kMiB;
  const Way ways[] = {
      {"whole, one thread", 0, false, whole, 1},
      {"1 GiB slices, one thread", 0, false, kGiB, 1},
      {"1 GiB slices, 4 threads", 0, false, kGiB, 4},
      {"1 GiB slices, 16 threads", 0, false, kGiB, 16},
      {"populated by 8 (read), whole", 8, false, whole, 1},
      {"populated by 8 (write), whole", 8, true, whole, 1},
      {"populated by 8 (write), 1 GiB slices, one thread", 8, true, kGiB, 1},
      {"populated by 8 (write), 1 GiB slices, 4 threads", 8, true, kGiB, 4},
      {"populated by 16 (write), 256 MiB slices, 4 threads", 16, true, kGiB / 4, 4},
  };
  for (const Way& way : ways) {
    meet();
    const auto [populated, pinned] = Measure(member, file, bytes, way);
    const double gib = static_cast<double>(bytes) / static_cast<double>(kGiB);
    std::printf("[%u] %-52s %.3f s + %.3f s = %.2f GiB/s\n", member.position, way.name, populated, pinned,
                gib / (populated + pinned));
  }
  close(file);
  return 0;
}

}  // namespace check
