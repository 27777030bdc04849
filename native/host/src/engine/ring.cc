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

// Not FUTEX_PRIVATE: the words lie in memory shared between processes.
long futex(std::atomic<std::uint32_t>* word, int operation, std::uint32_t value, const timespec* timeout) noexcept {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

}  // namespace

void RingCounter::publish(std::uint64_t next) noexcept {
  // All sequentially consistent: either the waiter sees the bumped word, or its registration is seen here.
  value.store(next);
  changes.fetch_add(1);
  if (waiters.load() != 0) futex(&changes, FUTEX_WAKE, INT_MAX, nullptr);
}

void RingCounter::wake() noexcept {
  changes.fetch_add(1);
  futex(&changes, FUTEX_WAKE, INT_MAX, nullptr);
}

void CounterWait::sleep(std::uint32_t ticket, std::chrono::nanoseconds longest) noexcept {
  const auto nanoseconds = std::max<std::int64_t>(longest.count(), 0);
  const timespec timeout{static_cast<time_t>(nanoseconds / 1'000'000'000), static_cast<long>(nanoseconds % 1'000'000'000)};
  futex(&counter_.changes, FUTEX_WAIT, ticket, &timeout);
}

void initialiseRing(void* base, std::uint64_t dataBytes) noexcept {
  auto* control = new (base) RingControl();
  control->dataOffset = kRingDataOffset;
  control->dataBytes = dataBytes;
  control->magic.store(kRingMagic);
}

std::optional<RingView> viewRing(void* base, std::uint64_t mappedBytes, std::shared_ptr<const void> mapping) noexcept {
  if (mappedBytes < sizeof(RingControl)) return std::nullopt;
  auto* control = static_cast<RingControl*>(base);
  if (control->magic.load() != kRingMagic) return std::nullopt;
  const auto offset = control->dataOffset;
  const auto bytes = control->dataBytes;
  if (offset < sizeof(RingControl) || offset > mappedBytes || bytes > mappedBytes - offset) return std::nullopt;
  return RingView{control, static_cast<std::byte*>(base) + offset, bytes, std::move(mapping)};
}

void beginRun(RingControl& ring, std::uint64_t generation) noexcept {
  for (auto* counter : {&ring.produced, &ring.received, &ring.released}) counter->value.store(0);
  for (auto& waiting : ring.waiting) waiting.what.store(0);
  ring.generation.publish(generation);
}

void abortRun(RingControl& ring, std::uint64_t generation, const std::string& reason) noexcept {
  if (ring.aborted.value.load() >= generation) return;
  const auto length = std::min(reason.size(), sizeof(ring.reason) - 1);
  std::memcpy(ring.reason, reason.data(), length);
  ring.reason[length] = '\0';
  ring.aborted.publish(generation);
  for (auto* counter : {&ring.generation, &ring.produced, &ring.received, &ring.released}) counter->wake();
}

std::string abortReason(const RingControl& ring) { return {ring.reason, strnlen(ring.reason, sizeof(ring.reason))}; }

}  // namespace ckpt::host
