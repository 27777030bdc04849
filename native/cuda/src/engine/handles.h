#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "driver.h"

namespace ckpt::cuda {

/// A device's primary context, retained while any object uses it. Shared with everything else in the process that uses CUDA.
class PrimaryContext {
 public:
  /// @throws Error INVALID_ARGUMENT if there is no such device.
  explicit PrimaryContext(int ordinal);
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;
  ~PrimaryContext();

  int ordinal() const { return ordinal_; }
  abi::Device device() const { return device_; }
  /// CPUs near the device, in ascending order; empty if there is only one NUMA node or the system does not report them.
  const std::vector<int>& near_cpus() const { return near_cpus_; }
  /// Makes it the calling thread's current context. Every thread must do so before it calls CUDA.
  void MakeCurrent() const;

 private:
  int ordinal_;
  abi::Device device_ = 0;
  abi::Context context_ = nullptr;
  std::vector<int> near_cpus_;
};

using ContextPtr = std::shared_ptr<const PrimaryContext>;

/// A stream that does not wait for the null stream. The destructor does not wait either: drain it before if that matters.
class Stream {
 public:
  /// Highest priority if `urgent`.
  Stream(ContextPtr context, bool urgent);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  abi::Stream get() const { return stream_; }
  /// Whether everything enqueued so far has finished. @throws Error if the context has failed.
  bool Idle() const;
  void Synchronize() const;

 private:
  ContextPtr context_;
  abi::Stream stream_ = nullptr;
};

/// An event that measures time.
class Event {
 public:
  explicit Event(ContextPtr context);
  Event(Event&& other) noexcept : context_(std::move(other.context_)), event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(event_, other.event_);
    return *this;
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  abi::Event get() const { return event_; }
  void Record(const Stream& stream) const;
  /// Whether the work before the last Record has finished. @throws Error if the context has failed.
  bool Done() const;
  /// Milliseconds from `start`; both must be done.
  double MillisecondsSince(const Event& start) const;

 private:
  ContextPtr context_;
  abi::Event event_ = nullptr;
};

/// What another process needs to map device memory.
struct IpcExport {
  abi::IpcMemHandle handle;
  /// Offset of the memory in the mapping of the handle: handles are for whole allocations.
  std::size_t offset;
};

/// Device memory.
class DeviceMemory {
 public:
  /// @throws Error OUT_OF_MEMORY.
  DeviceMemory(ContextPtr context, std::size_t bytes);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();

  const ContextPtr& context() const { return context_; }
  abi::DevicePointer pointer() const { return pointer_; }
  std::size_t bytes() const { return bytes_; }
  IpcExport Export() const;

 private:
  ContextPtr context_;
  abi::DevicePointer pointer_ = 0;
  std::size_t bytes_;
};

/// Free and total bytes of a device.
struct MemoryInfo {
  std::size_t free = 0;
  std::size_t total = 0;
};
MemoryInfo QueryMemory(const PrimaryContext& context);

}  // namespace ckpt::cuda
