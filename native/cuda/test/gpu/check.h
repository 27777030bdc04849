// What the GPU checks share.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/worker_pool.h"
#include "communicator.h"
#include "handles.h"
#include "nccl_abi.h"
#include "registration.h"

namespace check {

using Clock = std::chrono::steady_clock;

inline double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

inline void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

constexpr int kMostMembers = 8;

/// What member processes share: a page of anonymous shared memory that exec'd children map by its descriptor.
struct Board {
  std::atomic<int> ids_ready[16];
  ckpt::cuda::nccl_abi::UniqueId ids[16];
  std::atomic<int> arrived[64];
  std::atomic<int> dead[kMostMembers];
  double figures[kMostMembers][16];
};

inline void Barrier(Board& board, int number, int size) {
  board.arrived[number].fetch_add(1);
  const auto start = Clock::now();
  while (board.arrived[number].load() < size) {
    Require(Seconds(Clock::now() - start) < 120, "barrier " + std::to_string(number));
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

/// Pinned host memory.
class Pinned {
 public:
  Pinned(ckpt::cuda::ContextPtr context, ckpt::WorkerPool& pool, std::size_t bytes, unsigned threads,
         std::size_t slice_bytes = ckpt::cuda::HostRegistration::kDefaultSliceBytes);
  ~Pinned();
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  std::size_t slice_bytes() const { return registration_->slice_bytes(); }
  double touch_seconds = 0;
  double register_seconds = 0;

 private:
  std::byte* data_;
  std::size_t bytes_;
  std::unique_ptr<ckpt::cuda::HostRegistration> registration_;
};

/// Reproducible bytes of a source: the same on every member.
void Fill(ckpt::WorkerPool& pool, std::byte* data, std::size_t bytes, std::uint64_t seed);
std::uint64_t DigestOnCpu(const std::byte* data, std::uint64_t bytes);

int CheckKernels();
int LoadGpu(int device, double seconds);
int RunMember(int argc, char** argv);
int CheckPipelines(const std::string& what);

}  // namespace check
