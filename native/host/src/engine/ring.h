#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace ckpt::host {

/// The control page starts with this; a mapping without it is not a ring.
inline constexpr std::uint64_t kRingMagic = 0x314e52'54504b43ULL;  // "CKPTRN1"
/// Offset of the data: one huge page, so that the data can use huge pages if the kernel allows them for tmpfs.
inline constexpr std::size_t kRingDataOffset = std::size_t{2} << 20;

/// A number that other processes can wait for. Writers store `value`, then increment `changes`, the futex word; they make the
/// system call only if there are waiters. A waiter that was killed leaves `waiters` too high, which only causes unnecessary
/// system calls.
struct alignas(64) RingCounter {
  std::atomic<std::uint64_t> value{0};
  std::atomic<std::uint32_t> changes{0};
  std::atomic<std::uint32_t> waiters{0};

  /// Publishes `next` and wakes all waiters, in any process.
  void Publish(std::uint64_t next) noexcept;
  /// Wakes the waiters without a change, so that they check their stop flags.
  void Wake() noexcept;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free,
              "rings are shared between processes: their atomics must be lock-free");

/// Counts as a waiter of a counter for its lifetime.
class CounterWait {
 public:
  explicit CounterWait(RingCounter& counter) noexcept : counter_(counter) { counter_.waiters.fetch_add(1); }
  ~CounterWait() { counter_.waiters.fetch_sub(1); }
  CounterWait(const CounterWait&) = delete;
  CounterWait& operator=(const CounterWait&) = delete;

  /// Take it before reading the value: Sleep() returns immediately if the counter has changed since.
  std::uint32_t ticket() const noexcept { return counter_.changes.load(); }
  void Sleep(std::uint32_t ticket, std::chrono::nanoseconds longest) noexcept;

 private:
  RingCounter& counter_;
};

/// What a stage of a member waits for, so that others can find out which member delays which.
struct alignas(64) RingWaiting {
  std::atomic<std::uint64_t> what{0};
  std::atomic<std::uint64_t> need{0};
};

/// The head of a ring's shared memory. Counters belong to the run `generation`: the owner resets them and then publishes the
/// new generation, only after every member has finished the previous run (see BeginRun).
struct RingControl {
  std::atomic<std::uint64_t> magic{0};
  std::uint64_t data_offset = 0;
  std::uint64_t data_bytes = 0;
  RingCounter generation;
  /// Bytes copied into the buckets that this member owns, in their order.
  RingCounter produced;
  /// Number of buckets, from the first on, that are complete in this ring.
  RingCounter received;
  /// Number of buckets that this member's engine worker has finished with.
  RingCounter released;
  /// The generation that this member aborted.
  RingCounter aborted;
  /// By stage.
  RingWaiting waiting[2];
  /// Which member aborted first, and why; valid once `aborted` is set.
  std::uint64_t aborted_by = 0;
  char reason[512] = {};
};

static_assert(sizeof(RingControl) <= 4096, "the control data is one page");

/// A ring as mapped in this process. Copies share the mapping.
struct RingView {
  RingControl* control = nullptr;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  /// Keeps the memory mapped.
  std::shared_ptr<const void> mapping;
};

/// Initialises the memory at `base` (of at least `kRingDataOffset + data_bytes` bytes) as a ring at generation 0.
void InitialiseRing(void* base, std::uint64_t data_bytes) noexcept;

/// The ring at `base`; nothing if the memory is not a ring or is smaller than its head says.
std::optional<RingView> ViewRing(void* base, std::uint64_t mapped_bytes, std::shared_ptr<const void> mapping) noexcept;

/// Resets the counters for run `generation` and publishes it. Called only by the ring's own member, while no run is active.
void BeginRun(RingControl& ring, std::uint64_t generation) noexcept;

/// Aborts run `generation` because member `by` (often another one) did: peers that wait for this member stop. Only the first
/// reason is kept.
void AbortRun(RingControl& ring, std::uint64_t generation, std::uint32_t by, const std::string& reason) noexcept;

/// The reason passed to AbortRun; call it only after `aborted` was seen.
std::string AbortReason(const RingControl& ring);

}  // namespace ckpt::host
