#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

namespace ckpt::host {

/// What a peer must know to read a region: 128 random bits, never reused.
using RegionKey = std::array<std::uint8_t, 16>;

std::string ToHex(const std::uint8_t* bytes, std::size_t count);
/// @throws Error INVALID_ARGUMENT unless `text` is `count` bytes in hexadecimal.
void FromHex(const std::string& text, std::uint8_t* bytes, std::size_t count, const char* field);
/// Bytes from the kernel's random source. @throws Error NATIVE_FAILURE.
void FillSecurely(std::uint8_t* bytes, std::size_t count);

/// Memory that peers can read until its key is closed.
struct Region {
  const std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  /// Keeps the memory mapped.
  std::shared_ptr<const void> mapping;
  std::atomic<bool> open{true};
  /// Number of replies that are reading it now.
  std::uint32_t users = 0;
};

/// The regions of an endpoint by key. Thread-safe.
class RegionTable {
 public:
  RegionKey Add(const std::byte* data, std::uint64_t bytes, std::shared_ptr<const void> mapping);
  /// The region of a key, in use until Done is called; null if there is none (any more, see WasClosed).
  std::shared_ptr<Region> Use(const RegionKey& key);
  void Done(Region& region);
  /// Whether this key belonged to a region that has been closed; only the last 65,536 are remembered.
  bool WasClosed(const RegionKey& key);
  /// The region is not found any more, and replies that are being sent from it will report that. Unknown keys are ignored.
  /// @returns the region to wait for, null if the key was unknown.
  std::shared_ptr<Region> Close(const RegionKey& key);
  /// Waits until a closed region is not used any more.
  void AwaitUnused(const Region& region);

 private:
  std::mutex mutex_;
  std::condition_variable unused_;
  std::map<RegionKey, std::shared_ptr<Region>> regions_;
  std::set<RegionKey> closed_;
  /// The same, oldest first.
  std::deque<RegionKey> closed_in_order_;
};

}  // namespace ckpt::host
