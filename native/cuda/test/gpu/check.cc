#include "check.h"

#include <sys/mman.h>

#include <cstring>

#include "ckpt/cancellation.h"

namespace check {

Pinned::Pinned(ckpt::cuda::ContextPtr context, ckpt::WorkerPool& pool, std::size_t bytes, unsigned threads,
               std::size_t slice_bytes)
    : bytes_(bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Require(memory != MAP_FAILED, "mmap");
  data_ = static_cast<std::byte*>(memory);
  const auto start = Clock::now();
  const ckpt::Cancellation never;
  constexpr std::size_t kSlice = std::size_t{64} << 20;
  ckpt::ParallelFor::Run(pool, 16, (bytes + kSlice - 1) / kSlice, never, [&](std::size_t i) {
    for (std::size_t at = i * kSlice; at < std::min(bytes, (i + 1) * kSlice); at += 4096) data_[at] = std::byte{1};
  });
  const auto touched = Clock::now();
  registration_ = std::make_unique<ckpt::cuda::HostRegistration>(std::move(context), data_, bytes, slice_bytes);
  registration_->Pin(pool, threads, 0, registration_->slices());
  register_seconds = Seconds(Clock::now() - touched);
  touch_seconds = Seconds(touched - start);
}

Pinned::~Pinned() {
  registration_.reset();
  munmap(data_, bytes_);
}

namespace {

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

}  // namespace

void Fill(ckpt::WorkerPool& pool, std::byte* data, std::size_t bytes, std::uint64_t seed) {
  const ckpt::Cancellation never;
  constexpr std::size_t kSlice = std::size_t{16} << 20;
  ckpt::ParallelFor::Run(pool, 16, (bytes + kSlice - 1) / kSlice, never, [&](std::size_t i) {
    for (std::size_t at = i * kSlice; at < std::min(bytes, (i + 1) * kSlice); at += 8) {
      const std::uint64_t word = Mix(seed * 0x9e3779b97f4a7c15u + at);
      std::memcpy(data + at, &word, std::min<std::size_t>(8, bytes - at));
    }
  });
}

std::uint64_t DigestOnCpu(const std::byte* data, std::uint64_t bytes) {
  std::uint64_t sum = Mix(bytes ^ 0xff51afd7ed558ccdu);
  for (std::uint64_t i = 0; i * 8 < bytes; i++) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i * 8, std::min<std::uint64_t>(8, bytes - i * 8));
    sum += Mix(word + (i + 1) * 0x9e3779b97f4a7c15u);
  }
  return sum;
}

}  // namespace check
