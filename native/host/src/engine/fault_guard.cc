#include "fault_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

namespace ckpt::host {

/// What the handler reads: plain atomics, since it may run anywhere.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> hit{false};
};

namespace {

constexpr std::size_t kSlots = 4096;
/// Forever: a handler may still look at it while the process ends.
std::array<Slot, kSlots>& slots = *new std::array<Slot, kSlots>();
std::mutex taking;
std::uintptr_t page_bytes = 4096;
struct sigaction previous{};

/// Puts zeros where the file has ended. False for an address that is not guarded.
bool Replace(std::uintptr_t address) {
  for (Slot& slot : slots) {
    const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const std::uintptr_t end = slot.end.load(std::memory_order_relaxed);
    if (begin == 0 || address < begin || address >= end) continue;
    slot.hit.store(true);
    // Where this page is past the end of the file, all that follow are.
    const std::uintptr_t page = address / page_bytes * page_bytes;
    return ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                  -1, 0) != MAP_FAILED;
  }
  return false;
}

void OnBusError(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool replaced = info->si_code == BUS_ADRERR && Replace(reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = saved;
  if (replaced) return;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    // The same access faults again, and ends the process as it would have.
    ::sigaction(SIGBUS, &previous, nullptr);
  }
}

void Install() {
  page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &previous);
}

}  // namespace

FaultGuard::FaultGuard(std::byte* data, std::size_t bytes) : slot_(nullptr) {
  static std::once_flag installed;
  std::call_once(installed, Install);
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t length = (bytes + page_bytes - 1) / page_bytes * page_bytes;
  std::lock_guard<std::mutex> lock(taking);
  for (Slot& slot : slots) {
    if (slot.begin.load() != 0) continue;
    slot.hit.store(false);
    slot.end.store(begin + length, std::memory_order_relaxed);
    slot.begin.store(begin, std::memory_order_release);
    slot_ = &slot;
    return;
  }
}

FaultGuard::~FaultGuard() {
  if (slot_ != nullptr) slot_->begin.store(0, std::memory_order_release);
}

bool FaultGuard::hit() const { return slot_ != nullptr && slot_->hit.load(); }

}  // namespace ckpt::host
