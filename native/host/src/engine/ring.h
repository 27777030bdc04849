#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace ckpt::host {

/// What the control page starts with; a mapping without it is not a ring.
inline constexpr std::uint64_t kRingMagic = 0x314e52'54504b43ULL;  // "CKPTRN1"
/// Where the data starts: one huge page in, so that the data can lie on huge pages where the kernel grants them to tmpfs.
inline constexpr std::size_t kRingDataOffset = std::size_t{2} << 20;

/// A number that other processes can wait for. Writers store `value`, then bump `changes`, the futex word; they make the system
/// call only while somebody waits. A waiter that was killed leaves `waiters` too high, which costs needless calls and nothing
/// else.
struct alignas(64) RingCounter {
  std::atomic<std::uint64_t> value{0};
  std::atomic<std::uint32_t> changes{0};
  std::atomic<std::uint32_t> waiters{0};

  /// Publishes `next` and wakes whoever waits, in any process.
  void Publish(std::uint64_t next) noexcept;
  /// Wakes the waiters without a change, so that they look at their stop flags.
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

  /// Take it before looking at the value: Sleep() returns at once when the counter changed since.
  std::uint32_t ticket() const noexcept { return counter_.changes.load(); }
  void Sleep(std::uint32_t ticket, std::chrono::nanoseconds longest) noexcept;

 private:
  RingCounter& counter_;
};

/// What a stage of a member waits for, so that others can follow who holds up whom.
struct alignas(64) RingWaiting {
  std::atomic<std::uint64_t> what{0};
  std::atomic<std::uint64_t> need{0};
};

/// The head of a ring's shared memory. Counters belong to the run `generation`: the owner resets them and then publishes the
/// new generation, which it does only when every member has finished the run before (see BeginRun).
struct RingControl {
  std::atomic<std::uint64_t> magic{0};
  std::uint64_t data_offset = 0;
  std::uint64_t data_bytes = 0;
  RingCounter generation;
  /// Bytes copied into the buckets that this member owns, in their order.
  RingCounter produced;
  /// Buckets that are complete in this ring; all before are too.
  RingCounter received;
  /// Buckets that this member's engine worker is done with.
  RingCounter released;
  /// The generation that this member gave up.
  RingCounter aborted;
  /// By stage.
  RingWaiting waiting[2];
  /// Which member gave up first, and why; valid once `aborted` says so.
  std::uint64_t aborted_by = 0;
  char reason[512] = {};
};

static_assert(sizeof(RingControl) <= 4096, "the control data is one page");

/// A ring as mapped here. Copies share the mapping.
struct RingView {
  RingControl* control = nullptr;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  /// Keeps the memory mapped.
  std::shared_ptr<const void> mapping;
};

/// Makes the memory at `base` (of at least `kRingDataOffset + data_bytes` bytes) a ring at generation 0.
void InitialiseRing(void* base, std::uint64_t data_bytes) noexcept;

/// The ring at `base`; nothing when the memory is no ring or too small for what its head says.
std::optional<RingView> ViewRing(void* base, std::uint64_t mapped_bytes, std::shared_ptr<const void> mapping) noexcept;

/// Resets the counters for run `generation` and publishes it. Only the ring's own member, with no run under way.
void BeginRun(RingControl& ring, std::uint64_t generation) noexcept;

/// Gives up run `generation` because member `by` (often another one) did: peers that wait for this member end. The first reason
/// stays.
void AbortRun(RingControl& ring, std::uint64_t generation, std::uint32_t by, const std::string& reason) noexcept;

/// The reason given to AbortRun; call it only after `aborted` was seen.
std::string AbortReason(const RingControl& ring);

}  // namespace ckpt::host
