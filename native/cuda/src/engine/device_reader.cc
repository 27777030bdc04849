#include "device_reader.h"

#include <algorithm>
#include <deque>

#include "copy_batch.h"

namespace ckpt::cuda {
namespace {

/// Amount passed to the driver at once, and how many of these may be in progress: enough for the link, little enough to stop
/// soon.
constexpr std::size_t kBatchBytes = std::size_t{128} << 20;
constexpr std::size_t kBatchCopies = 256;
constexpr std::size_t kBatchesAhead = 3;

}  // namespace

ForeignMemory::ForeignMemory(ContextPtr context, const abi::IpcMemHandle& handle) : context_(std::move(context)) {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  context_->MakeCurrent();
  driver.Check(api.ipcOpenMemHandle(&pointer_, handle, abi::kIpcLazyEnablePeerAccess), "cuIpcOpenMemHandle");
  abi::DevicePointer base = 0;
  const abi::Result result = api.memGetAddressRange(&base, &bytes_, pointer_);
  if (result == abi::kSuccess) return;
  api.ipcCloseMemHandle(pointer_);
  driver.Check(result, "cuMemGetAddressRange");
}

ForeignMemory::~ForeignMemory() {
  try {
    context_->MakeCurrent();
  } catch (const Error&) {
    return;  // the context is gone, and the mapping with it
  }
  Driver::Get().api().ipcCloseMemHandle(pointer_);
}

void AppendRead(std::vector<DeviceRead>& reads, const DeviceRead& read) {
  if (read.bytes == 0) return;
  if (!reads.empty()) {
    DeviceRead& last = reads.back();
    const bool goes_on = last.from + last.bytes == read.from && last.to + last.bytes == read.to;
    if (goes_on && last.pinned == read.pinned && last.source == read.source) {
      last.bytes += read.bytes;
      return;
    }
  }
  reads.push_back(read);
}

std::uint64_t ReadDevice(const ContextPtr& context, const std::vector<DeviceRead>& reads, const Cancellation& cancellation,
                         const std::function<void(std::uint64_t)>& progress) {
  const Stream stream(context, false);
  std::deque<std::pair<Event, std::size_t>> under_way;
  std::uint64_t done = 0;
  const auto finish_one = [&] {
    Driver::Get().Check(Driver::Get().api().eventSynchronize(under_way.front().first.get()), "cuEventSynchronize");
    done += under_way.front().second;
    under_way.pop_front();
    progress(done);
  };
  CopyBatch batch(CopyBatch::Direction::kToHost);
  bool pinned = true;
  const auto flush = [&] {
    if (batch.empty()) return;
    cancellation.Check();
    if (under_way.size() >= kBatchesAhead) finish_one();
    batch.Enqueue(stream, pinned);
    Event end(context);
    end.Record(stream);
    under_way.emplace_back(std::move(end), batch.bytes());
    batch = CopyBatch(CopyBatch::Direction::kToHost);
    pinned = true;
  };
  try {
    for (const DeviceRead& read : reads) {
      for (std::size_t at = 0; at < read.bytes;) {
        const std::size_t length = std::min(read.bytes - at, kBatchBytes - batch.bytes());
        batch.Add(reinterpret_cast<abi::DevicePointer>(read.to + at), read.from + at, length);
        pinned = pinned && read.pinned;
        at += length;
        if (batch.bytes() == kBatchBytes || batch.count() == kBatchCopies) flush();
      }
    }
    flush();
    while (!under_way.empty()) {
      cancellation.Check();
      finish_one();
    }
  } catch (...) {
    Driver::Get().api().streamSynchronize(stream.get());
    throw;
  }
  return done;
}

}  // namespace ckpt::cuda
