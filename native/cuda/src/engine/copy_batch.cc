#include "copy_batch.h"

namespace ckpt::cuda {

void CopyBatch::Add(abi::DevicePointer to, abi::DevicePointer from, std::uint64_t bytes) {
  to_.push_back(to);
  from_.push_back(from);
  bytes_.push_back(bytes);
  total_ += bytes;
}

void CopyBatch::AddRows(const DeviceCopy& copy) {
  rows_.push_back(copy);
  total_ += copy.rows * copy.row_bytes;
}

void CopyBatch::Enqueue(const Stream& stream, bool batched) const {
  for (const DeviceCopy& copy : rows_) EnqueueRows(copy, stream);
  std::vector<std::size_t> large;
  const bool can = batched && Driver::Get().api().memcpyBatchAsync != nullptr;
  for (std::size_t i = 0; i < to_.size(); i++) {
    if (can && bytes_[i] >= kLeastBatchedBytes) {
      large.push_back(i);
    } else {
      EnqueueOne(i, stream);
    }
  }
  if (large.size() >= 2 && EnqueueTogether(large, stream)) return;
  for (const std::size_t index : large) EnqueueOne(index, stream);
}

bool CopyBatch::EnqueueTogether(const std::vector<std::size_t>& which, const Stream& stream) const {
  std::vector<abi::DevicePointer> to, from;
  std::vector<std::size_t> bytes;
  for (const std::size_t index : which) {
    to.push_back(to_[index]);
    from.push_back(from_[index]);
    bytes.push_back(bytes_[index]);
  }
  abi::MemcpyAttributes attributes{};
  attributes.srcAccessOrder = abi::kSrcAccessOrderStream;
  std::size_t first = 0;
  const Driver& driver = Driver::Get();
  const abi::Result result =
      driver.api().memcpyBatchAsync(to.data(), from.data(), bytes.data(), bytes.size(), &attributes, &first, 1, stream.get());
  // Refused before anything is copied, as observed when host memory had been registered in another context.
  if (result != abi::kErrorInvalidValue) driver.Check(result, "cuMemcpyBatchAsync");
  return result == abi::kSuccess;
}

void CopyBatch::EnqueueOne(std::size_t index, const Stream& stream) const {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  if (direction_ == Direction::kToDevice) {
    const auto* from = reinterpret_cast<const void*>(from_[index]);
    driver.Check(api.memcpyHtoDAsync(to_[index], from, bytes_[index], stream.get()), "cuMemcpyHtoDAsync");
  } else {
    auto* to = reinterpret_cast<void*>(to_[index]);
    driver.Check(api.memcpyDtoHAsync(to, from_[index], bytes_[index], stream.get()), "cuMemcpyDtoHAsync");
  }
}

void CopyBatch::EnqueueRows(const DeviceCopy& copy, const Stream& stream) {
  abi::Memcpy2d rows{};
  rows.srcMemoryType = abi::kMemoryTypeHost;
  rows.srcHost = reinterpret_cast<const void*>(copy.source);
  rows.srcPitch = copy.source_pitch;
  rows.dstMemoryType = abi::kMemoryTypeDevice;
  rows.dstDevice = copy.destination;
  rows.dstPitch = copy.destination_pitch;
  rows.widthInBytes = copy.row_bytes;
  rows.height = copy.rows;
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().memcpy2dAsync(&rows, stream.get()), "cuMemcpy2DAsync");
}

}  // namespace ckpt::cuda
