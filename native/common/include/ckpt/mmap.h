#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace ckpt {

/// Owns one mapped range of memory and unmaps it.
class ScopedMmap {
 public:
  ScopedMmap() = default;
  ScopedMmap(void* address, std::size_t bytes) : address_(address), bytes_(bytes) {}
  ScopedMmap(ScopedMmap&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  ScopedMmap& operator=(ScopedMmap&& other) noexcept {
    if (this != &other) {
      Reset();
      address_ = std::exchange(other.address_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ScopedMmap(const ScopedMmap&) = delete;
  ScopedMmap& operator=(const ScopedMmap&) = delete;
  ~ScopedMmap() { Reset(); }

  std::byte* data() const { return static_cast<std::byte*>(address_); }
  std::size_t size() const { return bytes_; }
  /// Gives up ownership; the caller unmaps.
  void* Release() {
    bytes_ = 0;
    return std::exchange(address_, nullptr);
  }
  void Reset() {
    if (address_ != nullptr) ::munmap(std::exchange(address_, nullptr), std::exchange(bytes_, 0));
  }

 private:
  void* address_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace ckpt
