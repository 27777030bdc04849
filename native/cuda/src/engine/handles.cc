#include "handles.h"

#include <string>

#include "ckpt/affinity.h"
#include "ckpt/error.h"
#include "device_info.h"

namespace ckpt::cuda {
namespace {

constexpr std::size_t kAllocationUnit = std::size_t{2} << 20;
constexpr int kHighestPriority = -100;  // clamped by the driver

}  // namespace

PrimaryContext::PrimaryContext(int ordinal) : ordinal_(ordinal) {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  if (ordinal < 0 || ordinal >= driver.devices()) {
    throw Error(code::kInvalidArgument,
                "no CUDA device " + std::to_string(ordinal) + ": there are " + std::to_string(driver.devices()))
        .WithField("index");
  }
  driver.Check(api.deviceGet(&device_, ordinal), "cuDeviceGet");
  if (NodeCount() > 1) near_cpus_ = ParseList(PlaceOf(device_).cpus);
  driver.Check(api.primaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

PrimaryContext::~PrimaryContext() { Driver::Get().api().primaryCtxRelease(device_); }

void PrimaryContext::MakeCurrent() const {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().ctxSetCurrent(context_), "cuCtxSetCurrent");
}

Stream::Stream(ContextPtr context, bool urgent) : context_(std::move(context)) {
  const Driver& driver = Driver::Get();
  context_->MakeCurrent();
  driver.Check(driver.api().streamCreate(&stream_, abi::kStreamNonBlocking, urgent ? kHighestPriority : 0),
               "cuStreamCreateWithPriority");
}

Stream::~Stream() { Driver::Get().api().streamDestroy(stream_); }

bool Stream::Idle() const {
  const Driver& driver = Driver::Get();
  const abi::Result result = driver.api().streamQuery(stream_);
  if (result == abi::kErrorNotReady) return false;
  driver.Check(result, "cuStreamQuery");
  return true;
}

void Stream::Synchronize() const {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().streamSynchronize(stream_), "cuStreamSynchronize");
}

Event::Event(ContextPtr context) : context_(std::move(context)) {
  const Driver& driver = Driver::Get();
  context_->MakeCurrent();
  driver.Check(driver.api().eventCreate(&event_, abi::kEventDefault), "cuEventCreate");
}

Event::~Event() {
  if (event_ != nullptr) Driver::Get().api().eventDestroy(event_);
}

void Event::Record(const Stream& stream) const {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().eventRecord(event_, stream.get()), "cuEventRecord");
}

bool Event::Done() const {
  const Driver& driver = Driver::Get();
  const abi::Result result = driver.api().eventQuery(event_);
  if (result == abi::kErrorNotReady) return false;
  driver.Check(result, "cuEventQuery");
  return true;
}

double Event::MillisecondsSince(const Event& start) const {
  const Driver& driver = Driver::Get();
  float milliseconds = 0;
  driver.Check(driver.api().eventElapsedTime(&milliseconds, start.event_, event_), "cuEventElapsedTime");
  return milliseconds;
}

DeviceMemory::DeviceMemory(ContextPtr context, std::size_t bytes) : context_(std::move(context)), bytes_(bytes) {
  if (bytes == 0) throw Error(code::kInvalidArgument, "device memory of 0 bytes").WithField("bytes");
  const Driver& driver = Driver::Get();
  context_->MakeCurrent();
  // Whole units, so that it does not share an allocation, and thus an IPC handle, with anything else.
  const std::size_t rounded = (bytes + kAllocationUnit - 1) / kAllocationUnit * kAllocationUnit;
  const std::string what =
      "cuMemAlloc of " + std::to_string(rounded) + " bytes on device " + std::to_string(context_->ordinal());
  driver.Check(driver.api().memAlloc(&pointer_, rounded), what.c_str());
}

DeviceMemory::~DeviceMemory() {
  const abi::Api& api = Driver::Get().api();
  try {
    context_->MakeCurrent();
  } catch (const Error&) {
    return;  // the context is gone, and the memory with it
  }
  api.memFree(pointer_);
}

IpcExport DeviceMemory::Export() const {
  const Driver& driver = Driver::Get();
  context_->MakeCurrent();
  IpcExport out{};
  abi::DevicePointer base = 0;
  std::size_t whole = 0;
  driver.Check(driver.api().memGetAddressRange(&base, &whole, pointer_), "cuMemGetAddressRange");
  driver.Check(driver.api().ipcGetMemHandle(&out.handle, pointer_), "cuIpcGetMemHandle");
  out.offset = static_cast<std::size_t>(pointer_ - base);
  return out;
}

MemoryInfo QueryMemory(const PrimaryContext& context) {
  const Driver& driver = Driver::Get();
  context.MakeCurrent();
  MemoryInfo info;
  driver.Check(driver.api().memGetInfo(&info.free, &info.total), "cuMemGetInfo");
  return info;
}

}  // namespace ckpt::cuda
