// The part of Mapping that handles its pages: allocating them and keeping them in memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

#include "ckpt/affinity.h"
#include "ckpt/error.h"
#include "ckpt/fd.h"
#include "limit.h"
#include "mapping.h"
#include "spans.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23  // since Linux 5.14
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // since Linux 6.1
#endif

namespace ckpt::host {
namespace {

// Small enough that a cancellation is noticed soon on memory that is allocated slowly.
constexpr std::size_t kSlice = std::size_t{32} << 20;

std::size_t PageBytes() {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Populates with the kernel's own call; false if the kernel does not have it. @throws Error OUT_OF_MEMORY.
bool PopulateWrite(std::byte* data, std::size_t bytes) {
  while (::madvise(data, bytes, MADV_POPULATE_WRITE) != 0) {
    const int number = errno;
    if (number == EINTR || number == EAGAIN) continue;
    if (number == EINVAL || number == ENOSYS) return false;
    // EFAULT takes the place of the SIGBUS that a write would have caused: the file system is full.
    throw Error::System(code::kOutOfMemory, "cannot populate memory", number == EFAULT ? ENOSPC : number);
  }
  return true;
}

void TouchPages(std::byte* data, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += PageBytes()) {
    // Atomically adding zero is a write that does not overwrite concurrent writes of other processes.
    __atomic_fetch_add(reinterpret_cast<unsigned char*>(data + at), 0, __ATOMIC_RELAXED);
  }
}

/// Raises the limits of lockable memory as far as permitted.
void RaiseLockLimit() {
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &unlimited) == 0) return;
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_MEMLOCK, &limit);
}

std::string LockLimitText() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "";
  const std::uint64_t locked = FieldIn("/proc/self/status", "VmLck:", 1024);
  const std::string used = locked == Limit::kNone ? "" : ", " + SizeText(locked) + " of it used";
  return " (RLIMIT_MEMLOCK, Max locked memory in /proc/self/limits, is " + SizeText(limit.rlim_cur) + used + ")";
}

/// Locking "on fault" takes one call and does not fault pages in, so memory that a read will fill is never touched twice.
bool LockOnFault(const std::byte* data, std::size_t bytes) {
  if (::mlock2(data, bytes, MLOCK_ONFAULT) == 0) return true;
  return (errno == ENOSYS || errno == EINVAL) && ::mlock(data, bytes) == 0;
}

}  // namespace

void Mapping::PreferNode(int node) {
  if (NodeCount() > 1) ckpt::PreferNode(data(), size(), node);
}

void Mapping::UseHugePages() {
  if (size() < kHugePageBytes || reinterpret_cast<std::uintptr_t>(data()) % kHugePageBytes != 0) return;
  formed_ = std::make_unique<std::atomic<bool>[]>(size() / kHugePageBytes);
}

void Mapping::FormHugePages(std::size_t offset, std::size_t bytes) {
  if (formed_ == nullptr || bytes == 0) return;
  const std::size_t last = std::min((offset + bytes - 1) / kHugePageBytes + 1, size() / kHugePageBytes);
  for (std::size_t i = offset / kHugePageBytes; i < last; i++) {
    if (formed_[i].exchange(true)) continue;
    std::byte* start = data() + i * kHugePageBytes;
    // The kernel forms a huge page from existing pages; one is enough. If it refuses, the pages stay small, which also works.
    if (!PopulateWrite(start, PageBytes())) return;
    ::madvise(start, kHugePageBytes, MADV_COLLAPSE);
  }
}

void Mapping::Populate(WorkerPool& pool, unsigned threads, const Cancellation& cancellation) {
  const bool by_kernel = PopulateWrite(data(), std::min(size(), PageBytes()));
  // Accessing a page that a full /dev/shm cannot provide would kill the process.
  if (!by_kernel && kind_ == Kind::kShared) Reserve(cancellation);
  const std::size_t slices = (size() + kSlice - 1) / kSlice;
  ParallelFor::Run(pool, threads, slices, cancellation, [&](std::size_t slice) {
    const std::size_t start = slice * kSlice;
    const std::size_t bytes = std::min(kSlice, size() - start);
    FormHugePages(start, bytes);
    if (!by_kernel || !PopulateWrite(data() + start, bytes)) TouchPages(data() + start, bytes);
  });
}

void Mapping::PopulateRead(std::size_t offset, std::size_t bytes, WorkerPool& pool, unsigned threads,
                           const Cancellation& cancellation) {
  if (!Inside(offset, bytes, size()))
    throw Error(code::kInvalidArgument, "the range lies outside the memory").WithField("offset");
  const std::size_t first = offset / PageBytes() * PageBytes();
  const std::size_t end = offset + bytes;
  const std::size_t slices = (end - first + kSlice - 1) / kSlice;
  ParallelFor::Run(pool, threads, slices, cancellation, [&](std::size_t slice) {
    const std::size_t start = first + slice * kSlice;
    ::madvise(data() + start, std::min(kSlice, end - start), MADV_POPULATE_READ);
  });
}

void Mapping::Reserve(const Cancellation& cancellation) {
  const std::string path = "/" + name_;
  const ScopedFd fd(::shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0));
  if (!fd)
    throw Error::System(code::kNativeFailure, "cannot open shared memory '" + name_ + "'", errno).WithFile("/dev/shm" + path);
  for (std::size_t start = 0; start < size(); start += kSlice) {
    cancellation.Check();
    const auto bytes = static_cast<off_t>(std::min(kSlice, size() - start));
    int number = 0;
    do {
      number = ::posix_fallocate(fd.get(), static_cast<off_t>(start), bytes);
    } while (number == EINTR);
    if (number != 0) {
      throw Error::System(code::kOutOfMemory, "cannot take " + std::to_string(size()) + " bytes of /dev/shm", number)
          .WithFile("/dev/shm" + path);
    }
  }
}

void Mapping::Lock() {
  bool locked = LockOnFault(data(), size());
  if (!locked) {
    RaiseLockLimit();
    locked = LockOnFault(data(), size());
  }
  const int number = errno;
  std::lock_guard<std::mutex> lock(mutex_);
  locked_ = locked;
  lock_error_ = locked ? "" : "cannot lock " + std::to_string(size()) + " bytes: " + Error::Describe(number) + LockLimitText();
}

}  // namespace ckpt::host
