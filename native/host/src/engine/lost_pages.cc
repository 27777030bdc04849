#include "lost_pages.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "ckpt/error.h"

namespace ckpt::host {
namespace {

// More than the number of mappings that a process may have (vm.max_map_count is 65,530); only used slots cost memory.
constexpr int kSlots = 1 << 16;

/// Read by the signal handler, so nothing here is protected by a lock. A slot with end 0 is free.
struct Slot {
  std::atomic<std::uintptr_t> start{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> lost{false};
};

std::array<Slot, kSlots> slots;
/// Slots from here on have never been used.
std::atomic<int> used{0};
std::mutex taking;
struct sigaction previous{};
std::uintptr_t page_bytes = 4096;

/// The signal handling from before this library was loaded.
void PassOn(int number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN && previous.sa_handler != nullptr) {
    previous.sa_handler(number);
  } else {
    // The instruction runs again and ends the process, as it would have without this library.
    ::signal(SIGBUS, SIG_DFL);
  }
}

/// Uses only calls that are safe in a signal handler.
void OnBus(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const int count = info->si_code == BUS_ADRERR ? used.load() : 0;
  for (int i = 0; i < count; i++) {
    const std::uintptr_t end = slots[i].end.load();
    const std::uintptr_t start = slots[i].start.load();
    if (end == 0 || address < start || address >= end) continue;
    const std::uintptr_t page = address / page_bytes * page_bytes;
    slots[i].lost.store(true);
    // Everything after a missing page is missing too, or is checked again with lost() set.
    if (::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED) {
      break;
    }
    errno = error;
    return;
  }
  PassOn(number, info, context);
  errno = error;
}

void Install() {
  page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = OnBus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &previous);
}

}  // namespace

PageWatch::PageWatch(const void* start, std::size_t bytes) {
  static std::once_flag installed;
  std::call_once(installed, Install);
  const auto begin = reinterpret_cast<std::uintptr_t>(start);
  const std::lock_guard<std::mutex> lock(taking);
  int slot = 0;
  while (slot < kSlots && slots[slot].end.load() != 0) slot++;
  if (slot == kSlots) throw Error(code::kOutOfMemory, "more than 65536 files are mapped");
  slots[slot].lost.store(false);
  slots[slot].start.store(begin);
  slots[slot].end.store(begin + bytes);
  if (slot >= used.load()) used.store(slot + 1);
  slot_ = slot;
}

PageWatch::PageWatch(PageWatch&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}

PageWatch& PageWatch::operator=(PageWatch&& other) noexcept {
  std::swap(slot_, other.slot_);
  return *this;
}

PageWatch::~PageWatch() {
  if (slot_ < 0) return;
  const std::lock_guard<std::mutex> lock(taking);
  slots[slot_].end.store(0);
}

bool PageWatch::lost() const { return slot_ >= 0 && slots[slot_].lost.load(); }

}  // namespace ckpt::host
