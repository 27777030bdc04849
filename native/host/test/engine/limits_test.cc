// Limits and lost files without Node, for sanitizer runs.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/usable_cpus.h"
#include "ckpt/worker_pool.h"
#include "limit.h"
#include "lost_pages.h"

using namespace ckpt;
using namespace ckpt::host;

namespace {

constexpr std::size_t kBytes = std::size_t{4} << 20;

/// A file in memory, mapped whole.
struct MappedFile {
  int fd = ::memfd_create("ckpt-test", MFD_CLOEXEC);
  unsigned char* data = nullptr;

  MappedFile() {
    REQUIRE((fd >= 0 && ::ftruncate(fd, kBytes) == 0));
    void* address = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(address != MAP_FAILED);
    data = static_cast<unsigned char*>(address);
    for (std::size_t i = 0; i < kBytes; i += 512) data[i] = 7;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    ::munmap(data, kBytes);
    ::close(fd);
  }
};

void TestSizes() {
  REQUIRE((SizeText(0) == "0 bytes" && SizeText(1) == "1 byte" && SizeText(1023) == "1023 bytes"));
  REQUIRE((SizeText(1024) == "1.0 KiB" && SizeText((std::uint64_t{1} << 31)) == "2.0 GiB"));
  REQUIRE(SizeText((std::uint64_t{1} << 30) - 1) == "1.0 GiB");
  REQUIRE(SizeText(Limit::kNone) == "16.0 EiB");
}

void TestThisMachine() {
  const auto limits = MemoryLimits();
  REQUIRE(!limits.empty());
  for (std::size_t i = 1; i < limits.size(); i++) REQUIRE(limits[i - 1].available <= limits[i].available);
  REQUIRE(ckpt::UsableCpus() >= 1);
  REQUIRE(MemoryLimits("/nowhere").empty());
}

/// Threads of the pool, which block signals, read a file while it is cut short at each of several places.
void TestCutShort(ckpt::WorkerPool& pool) {
  for (std::size_t left = 0; left <= kBytes; left += kBytes / 8) {
    MappedFile file;
    const PageWatch guard(reinterpret_cast<std::byte*>(file.data), kBytes);
    std::atomic<std::uint64_t> sum{0};
    const ckpt::Cancellation never;
    std::atomic<bool> cut{false};
    ckpt::ParallelFor::Run(pool, 4, 64, never, [&](std::size_t part) {
      if (part == 3 && !cut.exchange(true)) REQUIRE(::ftruncate(file.fd, static_cast<off_t>(left)) == 0);
      const unsigned char* from = file.data + part * (kBytes / 64);
      for (std::size_t i = 0; i < kBytes / 64; i += 512) sum += *const_cast<const volatile unsigned char*>(from + i);
    });
    volatile unsigned char* last = file.data + kBytes - 1;
    REQUIRE(*last == 0);
    REQUIRE(guard.lost() == (left != kBytes));
    // What is left of the file is what it was.
    if (left > 0) REQUIRE(file.data[left - 512] == 7);
  }
}

/// A fault that is not in a guarded range ends the process as it always did.
void TestOthersFault() {
  MappedFile guarded;
  const PageWatch guard(reinterpret_cast<std::byte*>(guarded.data), kBytes);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // What sanitizers say of it is expected.
    ::dup2(::open("/dev/null", O_WRONLY), STDERR_FILENO);
    MappedFile other;
    if (::ftruncate(other.fd, 0) != 0) ::_exit(3);
    volatile unsigned char* data = other.data;
    ::_exit(*data == 0 ? 1 : 2);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  // Sanitizers print a report and exit; without them the signal ends it.
  REQUIRE((!WIFEXITED(status) || WEXITSTATUS(status) > 3));
  REQUIRE(!guard.lost());
}

/// A range that is not guarded any more, then guarded again, says nothing of what was before.
void TestReuse() {
  for (int round = 0; round < 3; round++) {
    MappedFile file;
    const PageWatch guard(reinterpret_cast<std::byte*>(file.data), kBytes);
    REQUIRE(!guard.lost());
    REQUIRE(::ftruncate(file.fd, 0) == 0);
    volatile unsigned char* data = file.data;
    REQUIRE((*data == 0 && guard.lost()));
  }
  std::vector<std::unique_ptr<PageWatch>> many;
  alignas(4096) static std::byte page[4096];
  for (int i = 0; i < 5000; i++) many.push_back(std::make_unique<PageWatch>(page, sizeof page));
}

}  // namespace

TEST_CASE("limits: sizes for people") { TestSizes(); }
TEST_CASE("limits: limits of this machine") { TestThisMachine(); }
TEST_CASE("limits: files cut short while threads read them") {
  ckpt::WorkerPool pool("limits-test");
  TestCutShort(pool);
}
TEST_CASE("limits: faults elsewhere end the process") { TestOthersFault(); }
TEST_CASE("limits: guards are taken again") { TestReuse(); }
