#include "registration.h"

#include <algorithm>
#include <string>

#include "ckpt/error.h"

namespace ckpt::cuda {
HostRegistration::HostRegistration(ContextPtr context, void* address, std::size_t bytes, std::size_t slice_bytes)
    : context_(std::move(context)), address_(static_cast<std::byte*>(address)), bytes_(bytes), slice_bytes_(slice_bytes) {
  if (bytes == 0) throw Error(code::kInvalidArgument, "host memory of 0 bytes").WithField("bytes");
  registered_.assign((bytes + slice_bytes_ - 1) / slice_bytes_, 0);
}

void HostRegistration::Pin(WorkerPool& pool, unsigned threads, std::size_t first, std::size_t last) {
  if (first > last || last > registered_.size()) {
    throw Error(code::kInvalidArgument,
                "slices " + std::to_string(first) + " to " + std::to_string(last) + " of " + std::to_string(registered_.size()))
        .WithField("slices");
  }
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  const Cancellation never;
  ParallelFor::Run(pool, threads, last - first, never, [&](std::size_t index) {
    const std::size_t slice = first + index;
    if (registered_[slice]) return;
    context_->MakeCurrent();
    std::byte* start = address_ + slice * slice_bytes_;
    const std::size_t length = std::min(slice_bytes_, bytes_ - slice * slice_bytes_);
    constexpr unsigned int kFlags = abi::kMemHostRegisterPortable | abi::kMemHostRegisterDeviceMap;
    abi::Result result = api.memHostRegister(start, length, kFlags);
    // Read-only mappings, if the device supports them.
    if (result != abi::kSuccess && result != abi::kErrorOutOfMemory &&
        api.memHostRegister(start, length, kFlags | abi::kMemHostRegisterReadOnly) == abi::kSuccess) {
      result = abi::kSuccess;
    }
    const std::string what = "cuMemHostRegister of " + std::to_string(length) + " bytes";
    driver.Check(result, what.c_str());
    registered_[slice] = 1;
  });
}

bool HostRegistration::pinned() const {
  return std::all_of(registered_.begin(), registered_.end(), [](char slice) { return slice != 0; });
}

HostRegistration::~HostRegistration() { Unregister(); }

void HostRegistration::Unregister() {
  try {
    context_->MakeCurrent();
  } catch (const Error&) {
    return;  // the context is gone, and its registrations with it
  }
  const abi::Api& api = Driver::Get().api();
  for (std::size_t slice = 0; slice < registered_.size(); slice++) {
    if (registered_[slice]) api.memHostUnregister(address_ + slice * slice_bytes_);
    registered_[slice] = 0;
  }
}

}  // namespace ckpt::cuda
