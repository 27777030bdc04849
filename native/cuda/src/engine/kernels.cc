#include "kernels.h"

#include <algorithm>
#include <limits>

#include "../kernels/kernel_jobs.h"
#include "ckpt/error.h"
#include "kernels_image.h"

namespace ckpt::cuda {
namespace {

constexpr std::uint64_t kBlocksPerMultiprocessor = 8;
constexpr std::size_t kLeastScratchBytes = std::size_t{2} << 20;

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

std::uint64_t DivideUp(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

/// Copies a list to device memory; the copy has finished when this returns.
template <typename T>
void Upload(abi::DevicePointer to, const std::vector<T>& list, const Stream& stream) {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().memcpyHtoDAsync(to, list.data(), list.size() * sizeof(T), stream.get()),
               "cuMemcpyHtoDAsync of a job list");
  stream.Synchronize();
}

}  // namespace

std::string KernelsProblem() { return KernelsImage() == nullptr ? "the addon was built without nvcc" : ""; }

Kernels::Kernels(ContextPtr context) : context_(std::move(context)) {
  if (KernelsImage() == nullptr) throw Error(code::kUnsupported, "no GPU kernels: " + KernelsProblem());
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  context_->MakeCurrent();
  driver.Check(api.deviceGetAttribute(&multiprocessors_, abi::kAttributeMultiprocessorCount, context_->device()),
               "cuDeviceGetAttribute");
  driver.Check(api.moduleLoadData(&module_, KernelsImage()), "cuModuleLoadData of the kernels");
  driver.Check(api.moduleGetFunction(&digest_, module_, "ckpt_digest"), "cuModuleGetFunction");
  driver.Check(api.moduleGetFunction(&copy_strided_, module_, "ckpt_copy_strided"), "cuModuleGetFunction");
}

Kernels::~Kernels() {
  try {
    context_->MakeCurrent();
    Driver::Get().api().moduleUnload(module_);
  } catch (const Error&) {
    // The context has been destroyed, and the module with it.
  }
}

DeviceMemory& Kernels::Scratch(std::size_t bytes) const {
  if (scratch_ == nullptr || scratch_->bytes() < bytes) {
    scratch_ = nullptr;
    scratch_ = std::make_unique<DeviceMemory>(context_, std::max(bytes, kLeastScratchBytes));
  }
  return *scratch_;
}

void Kernels::Launch(abi::Function function, std::uint64_t tiles, void** parameters, const Stream& stream) const {
  const Driver& driver = Driver::Get();
  const std::uint64_t blocks =
      std::min<std::uint64_t>(tiles, static_cast<std::uint64_t>(multiprocessors_) * kBlocksPerMultiprocessor);
  driver.Check(driver.api().launchKernel(function, static_cast<unsigned int>(blocks), 1, 1, kKernelThreads, 1, 1, 0,
                                         stream.get(), parameters, nullptr),
               "cuLaunchKernel");
}

std::vector<std::uint64_t> Kernels::Digest(const std::vector<DeviceRange>& ranges, const Stream& stream) const {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  context_->MakeCurrent();
  std::vector<std::uint64_t> digests(ranges.size());
  std::vector<DigestJob> jobs;
  std::vector<std::size_t> index;
  std::uint64_t tiles = 0;
  for (std::size_t i = 0; i < ranges.size(); i++) {
    digests[i] = Mix(ranges[i].bytes ^ 0xff51afd7ed558ccdu);
    if (ranges[i].bytes == 0) continue;
    jobs.push_back({ranges[i].address, ranges[i].bytes, tiles});
    index.push_back(i);
    tiles += DivideUp(ranges[i].bytes, kDigestTileBytes);
  }
  if (jobs.empty()) return digests;
  const std::size_t list_bytes = jobs.size() * sizeof(DigestJob);
  const std::size_t sums_bytes = jobs.size() * sizeof(std::uint64_t);
  const std::lock_guard<std::mutex> lock(mutex_);
  abi::DevicePointer list_pointer = Scratch(list_bytes + sums_bytes).pointer();
  abi::DevicePointer result_pointer = list_pointer + list_bytes;
  Upload(list_pointer, jobs, stream);
  std::vector<std::uint64_t> sums(jobs.size());
  driver.Check(api.memsetD8Async(result_pointer, 0, sums_bytes, stream.get()), "cuMemsetD8Async");
  auto count = static_cast<unsigned int>(jobs.size());
  unsigned long long total = tiles;
  void* parameters[] = {&list_pointer, &count, &total, &result_pointer};
  Launch(digest_, tiles, parameters, stream);
  driver.Check(api.memcpyDtoHAsync(sums.data(), result_pointer, sums_bytes, stream.get()), "cuMemcpyDtoHAsync");
  stream.Synchronize();
  for (std::size_t i = 0; i < index.size(); i++) digests[index[i]] += sums[i];
  return digests;
}

CopyList::CopyList(std::shared_ptr<const Kernels> kernels, const std::vector<DeviceCopy>& copies, const Stream& stream)
    : kernels_(std::move(kernels)) {
  std::vector<CopyJob> jobs;
  for (const DeviceCopy& copy : copies) {
    if (copy.rows == 0 || copy.row_bytes == 0) continue;
    if (copy.rows > 1 && copy.destination_pitch < copy.row_bytes) {
      throw Error(code::kInvalidArgument, "rows of a copy overlap in its destination").WithField("destinationPitch");
    }
    CopyJob job{};
    job.source = copy.source;
    job.destination = copy.destination;
    job.rows = copy.rows;
    job.row_bytes = copy.row_bytes;
    job.source_pitch = copy.rows > 1 ? copy.source_pitch : 0;
    job.destination_pitch = copy.rows > 1 ? copy.destination_pitch : 0;
    if (job.rows > 1 && job.source_pitch == job.row_bytes && job.destination_pitch == job.row_bytes) {
      job.row_bytes *= job.rows;
      job.rows = 1;
      job.source_pitch = job.destination_pitch = 0;
    }
    const std::uint64_t all = job.source | job.destination | job.row_bytes | job.source_pitch | job.destination_pitch | 16;
    job.unit = static_cast<unsigned int>(all & (~all + 1));
    job.tile_bytes = std::min<std::uint64_t>(job.row_bytes, kCopyTileBytes);
    job.tiles_per_row = DivideUp(job.row_bytes, job.tile_bytes);
    job.rows_per_tile = job.tiles_per_row > 1 ? 1 : std::max<std::uint64_t>(1, kCopyTileBytes / job.row_bytes);
    job.first_tile = tiles_;
    tiles_ += job.tiles_per_row * DivideUp(job.rows, job.rows_per_tile);
    bytes_ += job.rows * job.row_bytes;
    jobs.push_back(job);
  }
  count_ = static_cast<unsigned int>(jobs.size());
  kernels_->context_->MakeCurrent();
  if (count_ == 0) return;
  jobs_ = std::make_unique<DeviceMemory>(kernels_->context_, jobs.size() * sizeof(CopyJob));
  Upload(jobs_->pointer(), jobs, stream);
}

void CopyList::Run(const Stream& stream) const {
  if (count_ == 0) return;
  kernels_->context_->MakeCurrent();
  abi::DevicePointer list = jobs_->pointer();
  unsigned int count = count_;
  unsigned long long tiles = tiles_;
  void* parameters[] = {&list, &count, &tiles};
  kernels_->Launch(kernels_->copy_strided_, tiles_, parameters, stream);
}

}  // namespace ckpt::cuda
