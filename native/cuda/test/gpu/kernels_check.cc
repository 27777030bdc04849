// Digests and strided copies on the GPU against the CPU, on random sizes and alignments; then their rates.
#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "check.h"
#include "ckpt/error.h"
#include "direct.h"
#include "kernels.h"

namespace check {
namespace {

using namespace ckpt;
using namespace ckpt::cuda;

void Upload(const DeviceMemory& memory, const std::vector<std::byte>& bytes, const ckpt::cuda::Stream& stream) {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().memcpyHtoDAsync(memory.pointer(), bytes.data(), bytes.size(), stream.get()), "upload");
  stream.Synchronize();
}

std::vector<std::byte> Download(const DeviceMemory& memory, const ckpt::cuda::Stream& stream) {
  const Driver& driver = Driver::Get();
  std::vector<std::byte> bytes(memory.bytes());
  driver.Check(driver.api().memcpyDtoHAsync(bytes.data(), memory.pointer(), bytes.size(), stream.get()), "download");
  stream.Synchronize();
  return bytes;
}

std::vector<std::byte> RandomBytes(std::mt19937_64& random, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

void CheckDigest(std::mt19937_64& random, const Kernels& kernels, const ContextPtr& context, const ckpt::cuda::Stream& stream) {
  constexpr std::size_t kBytes = 3000001;  // no multiple of 8: the last word must not be read past its end
  const std::vector<std::byte> host = RandomBytes(random, kBytes);
  const DeviceMemory memory(context, kBytes);
  Upload(memory, host, stream);
  std::vector<DeviceRange> ranges;
  std::vector<std::uint64_t> expected;
  const auto add = [&](std::size_t offset, std::size_t bytes) {
    ranges.push_back({memory.pointer() + offset, bytes});
    expected.push_back(DigestOnCpu(host.data() + offset, bytes));
  };
  for (std::size_t offset = 0; offset < 33; offset++) {
    for (std::size_t bytes = 0; bytes < 40; bytes++) add(offset, bytes);
    add(offset, kBytes - offset);
    add(kBytes - offset, offset);
  }
  for (int i = 0; i < 500; i++) {
    const std::size_t offset = random() % kBytes;
    add(offset, random() % (kBytes - offset));
  }
  Require(kernels.Digest(ranges, stream) == expected, "GPU digests equal the CPU's");
  Require(kernels.Digest({}, stream).empty(), "no ranges, no digests");
  std::printf("digest: %zu ranges equal\n", ranges.size());
}

void CheckCopies(std::mt19937_64& random, const std::shared_ptr<const Kernels>& kernels, const ContextPtr& context,
                 const ckpt::cuda::Stream& stream) {
  constexpr std::size_t kBytes = 2 << 20;
  const DeviceMemory source(context, kBytes), destination(context, kBytes);
  for (int round = 0; round < 40; round++) {
    const std::vector<std::byte> from = RandomBytes(random, kBytes);
    std::vector<std::byte> to = RandomBytes(random, kBytes);
    Upload(source, from, stream);
    Upload(destination, to, stream);
    const std::size_t unit = std::size_t{1} << (round % 6);
    std::vector<DeviceCopy> copies;
    std::size_t cursor = 0;
    while (true) {
      const std::size_t rows = random() % 50;
      const std::size_t width = (random() % (round % 3 == 0 ? 100000 : 700)) / unit * unit;
      const std::size_t gap = (random() % 100) / unit * unit;
      const std::size_t skip = (random() % 300) / unit * unit;
      const std::size_t source_pitch = width + (random() % 200) / unit * unit;
      if (cursor + skip + rows * (width + gap) > kBytes || rows * source_pitch + width >= kBytes) break;
      const std::size_t start = random() % (kBytes - rows * source_pitch - width) / unit * unit;
      cursor += skip;
      copies.push_back({source.pointer() + start, destination.pointer() + cursor, rows, width, source_pitch, width + gap});
      for (std::size_t r = 0; r < rows; r++) {
        std::memcpy(to.data() + cursor + r * (width + gap), from.data() + start + r * source_pitch, width);
      }
      cursor += rows * (width + gap);
    }
    const CopyList list(kernels, copies, stream);
    list.Run(stream);
    Require(Download(destination, stream) == to, "strided copies equal the CPU's, round " + std::to_string(round));
  }
  std::printf("strided copy: 40 lists equal\n");
}

/// A direct job out of pinned memory in slices: runs and rows of all widths, aligned with lines of memory and not.
void CheckDirect(std::mt19937_64& random, const std::shared_ptr<const Kernels>& kernels, const ContextPtr& context,
                 const ckpt::cuda::Stream& stream) {
  constexpr std::size_t kBytes = 24 << 20, kSlice = 8 << 20;
  ckpt::WorkerPool pool{"check"};
  const Pinned host(context, pool, kBytes, 2, kSlice);
  Fill(pool, host.data(), kBytes, 5);
  const DeviceMemory destination(context, kBytes);
  const auto base = reinterpret_cast<std::uint64_t>(host.data());
  for (int round = 0; round < 30; round++) {
    std::vector<std::byte> to = RandomBytes(random, kBytes);
    Upload(destination, to, stream);
    const std::size_t unit = round % 3 == 0 ? 128 : round % 3 == 1 ? 8 : 2;
    std::vector<DeviceCopy> copies;
    std::uint64_t expected = 0;
    for (std::size_t cursor = 0;;) {
      const std::size_t width = (1 + random() % (round % 2 == 0 ? 4000 : 400000)) / unit * unit + unit;
      const std::size_t rows = 1 + random() % (width < 4096 ? 3000 : 8);
      // Rows of expanded tensors are all the same, those of other views may overlap.
      const std::size_t kind = random() % 8;
      const std::size_t source_pitch = kind == 0   ? 0
                                       : kind == 1 ? width / 2 / unit * unit
                                                   : width + (random() % 2000) / unit * unit;
      const std::size_t pitch = width + (random() % 300) / unit * unit;
      const std::size_t span = (rows - 1) * source_pitch + width;
      if (cursor + rows * pitch > kBytes || span >= kBytes) break;
      const std::size_t start = random() % (kBytes - span) / unit * unit;
      copies.push_back({base + start, destination.pointer() + cursor, rows, width, source_pitch, pitch});
      for (std::size_t r = 0; r < rows; r++) {
        std::memcpy(to.data() + cursor + r * pitch, host.data() + start + r * source_pitch, width);
      }
      cursor += rows * pitch;
      expected += rows * width;
    }
    DirectJob::Options options;
    options.slice_bytes = kSlice;
    options.together = round % 2 == 0;
    const DirectJob job(context, kernels, {{base, kBytes}}, copies, {}, options);
    for (int i = 0; i < 2; i++) Require(job.Run(ckpt::Cancellation()).h2d_bytes == expected, "all bytes of a direct job");
    Require(Download(destination, stream) == to, "a direct job's bytes equal the CPU's, round " + std::to_string(round));
  }
  std::printf("direct: 30 jobs equal\n");
}

void Rates(const std::shared_ptr<const Kernels>& kernels, const ContextPtr& context, const ckpt::cuda::Stream& stream) {
  constexpr std::size_t kBytes = std::size_t{2} << 30;
  const DeviceMemory a(context, kBytes), b(context, kBytes);
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().memsetD8Async(a.pointer(), 7, kBytes, stream.get()), "memset");
  std::vector<DeviceRange> ranges;
  for (std::size_t at = 0; at < kBytes; at += 3 << 20)
    ranges.push_back({a.pointer() + at, std::min<std::size_t>(3 << 20, kBytes - at)});
  for (int i = 0; i < 3; i++) {
    const auto start = Clock::now();
    kernels->Digest(ranges, stream);
    std::printf("digest of 2 GiB in %zu ranges, upload and wait included: %.0f GB/s\n", ranges.size(),
                kBytes / Seconds(Clock::now() - start) / 1e9);
  }
  for (const std::size_t width : {256, 1536, 4096}) {
    std::vector<DeviceCopy> copies;
    for (std::size_t at = 0; at + (6 << 20) <= kBytes; at += 6 << 20) {
      copies.push_back({a.pointer() + at, b.pointer() + at / 2, (3 << 20) / width, width, 2 * width, width});
    }
    const CopyList list(kernels, copies, stream);
    list.Run(stream);
    const Event begin(context), end(context);
    begin.Record(stream);
    for (int i = 0; i < 5; i++) list.Run(stream);
    end.Record(stream);
    stream.Synchronize();
    std::printf("strided copy, rows of %zu bytes at twice the pitch: %.0f GB/s of payload\n", width,
                5.0 * static_cast<double>(list.bytes()) / end.MillisecondsSince(begin) / 1e6);
  }
}

}  // namespace

int CheckKernels() {
  const auto context = std::make_shared<const PrimaryContext>(0);
  const ckpt::cuda::Stream stream(context, false);
  const auto kernels = std::make_shared<const Kernels>(context);
  std::mt19937_64 random(11);
  CheckDigest(random, *kernels, context, stream);
  CheckCopies(random, kernels, context, stream);
  CheckDirect(random, kernels, context, stream);
  if (std::getenv("CKPT_CHECK_QUICK") == nullptr) Rates(kernels, context, stream);
  return 0;
}

/// What an engine worker's reload looks like to the GPU: a strided copy of 32 MiB now and then, from a process of its own. Says
/// how long each took, so that it can be run beside a pipeline and alone.
int LoadGpu(int device, double seconds) {
  const auto context = std::make_shared<const PrimaryContext>(device);
  const ckpt::cuda::Stream stream(context, false);
  const auto kernels = std::make_shared<const Kernels>(context);
  constexpr std::size_t kPayload = 32 << 20;
  const DeviceMemory from(context, 2 * kPayload), to(context, kPayload);
  std::vector<DeviceCopy> copies;
  for (std::size_t at = 0; at < kPayload; at += 1 << 20) {
    copies.push_back({from.pointer() + 2 * at, to.pointer() + at, 1024, 1024, 2048, 1024});
  }
  const CopyList list(kernels, copies, stream);
  std::vector<double> times;
  const auto start = Clock::now();
  while (Seconds(Clock::now() - start) < seconds) {
    const auto begin = Clock::now();
    list.Run(stream);
    stream.Synchronize();
    times.push_back(Seconds(Clock::now() - begin) * 1e6);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  std::sort(times.begin(), times.end());
  std::printf("load on device %d: %zu copies of 32 MiB, median %.0f, 90%% %.0f, longest %.0f us\n", device, times.size(),
              times[times.size() / 2], times[times.size() * 9 / 10], times.back());
  return 0;
}

}  // namespace check
