#include "ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <new>

namespace ckpt::host {
namespace {

// Not FUTEX_PRIVATE: the words are in memory shared between processes.
long Futex(std::atomic<std::uint32_t>* word, int operation, std::uint32_t value, const timespec* timeout) noexcept {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

}  // namespace

void RingCounter::Publish(std::uint64_t next) noexcept {
  // All sequentially consistent: either the waiter sees the incremented word, or its registration is seen here.
  value.store(next);
  changes.fetch_add(1);
  if (waiters.load() != 0) Futex(&changes, FUTEX_WAKE, INT_MAX, nullptr);
}

void RingCounter::Wake() noexcept {
  changes.fetch_add(1);
  Futex(&changes, FUTEX_WAKE, INT_MAX, nullptr);
}

void CounterWait::Sleep(std::uint32_t ticket, std::chrono::nanoseconds longest) noexcept {
  const auto nanoseconds = std::max<std::int64_t>(longest.count(), 0);
  const timespec timeout{static_cast<time_t>(nanoseconds / 1'000'000'000), static_cast<long>(nanoseconds % 1'000'000'000)};
  Futex(&counter_.changes, FUTEX_WAIT, ticket, &timeout);
}

void InitialiseRing(void* base, std::uint64_t data_bytes) noexcept {
  auto* control = new (base) RingControl();
  control->data_offset = kRingDataOffset;
  control->data_bytes = data_bytes;
  control->magic.store(kRingMagic);
}

std::optional<RingView> ViewRing(void* base, std::uint64_t mapped_bytes, std::shared_ptr<const void> mapping) noexcept {
  if (mapped_bytes < sizeof(RingControl)) return std::nullopt;
  auto* control = static_cast<RingControl*>(base);
  if (control->magic.load() != kRingMagic) return std::nullopt;
  const auto offset = control->data_offset;
  const auto bytes = control->data_bytes;
  if (offset < sizeof(RingControl) || offset > mapped_bytes || bytes > mapped_bytes - offset) return std::nullopt;
  return RingView{control, static_cast<std::byte*>(base) + offset, bytes, std::move(mapping)};
}

void BeginRun(RingControl& ring, std::uint64_t generation) noexcept {
  for (auto* counter : {&ring.produced, &ring.received, &ring.released}) counter->value.store(0);
  for (auto& waiting : ring.waiting) waiting.what.store(0);
  ring.generation.Publish(generation);
}

void AbortRun(RingControl& ring, std::uint64_t generation, std::uint32_t by, const std::string& reason) noexcept {
  if (ring.aborted.value.load() >= generation) return;
  const auto length = std::min(reason.size(), sizeof(ring.reason) - 1);
  std::memcpy(ring.reason, reason.data(), length);
  ring.reason[length] = '\0';
  ring.aborted_by = by;
  ring.aborted.Publish(generation);
  for (auto* counter : {&ring.generation, &ring.produced, &ring.received, &ring.released}) counter->Wake();
}

std::string AbortReason(const RingControl& ring) { return {ring.reason, strnlen(ring.reason, sizeof(ring.reason))}; }

}  // namespace ckpt::host
