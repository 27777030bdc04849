#include "region_table.h"

#include <sys/random.h>

#include <cerrno>
#include <utility>

#include "ckpt/error.h"

namespace ckpt::host {
namespace {

/// Number of closed keys that are distinguished from unknown ones: 4 MiB of them.
constexpr std::size_t kRemembered = std::size_t{1} << 16;

}  // namespace

std::string ToHex(const std::uint8_t* bytes, std::size_t count) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

void FromHex(const std::string& text, std::uint8_t* bytes, std::size_t count, const char* field) {
  const auto digit = [&](char c) -> std::uint8_t {
    if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
    throw Error(code::kInvalidArgument, std::string(field) + " is not hexadecimal").WithField(field);
  };
  if (text.size() != 2 * count) {
    throw Error(code::kInvalidArgument, std::string(field) + " must be " + std::to_string(2 * count) + " hex digits")
        .WithField(field);
  }
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::uint8_t>(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
  }
}

void FillSecurely(std::uint8_t* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t got = getrandom(bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error::System(code::kNativeFailure, "getrandom", errno);
    bytes += got;
    count -= static_cast<std::size_t>(got);
  }
}

RegionKey RegionTable::Add(const std::byte* data, std::uint64_t bytes, std::shared_ptr<const void> mapping) {
  RegionKey key;
  FillSecurely(key.data(), key.size());
  auto region = std::make_shared<Region>();
  region->data = data;
  region->bytes = bytes;
  region->mapping = std::move(mapping);
  const std::lock_guard<std::mutex> lock(mutex_);
  regions_.emplace(key, std::move(region));
  return key;
}

std::shared_ptr<Region> RegionTable::Use(const RegionKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = regions_.find(key);
  if (found == regions_.end()) return nullptr;
  ++found->second->users;
  return found->second;
}

void RegionTable::Done(Region& region) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (--region.users == 0) unused_.notify_all();
}

std::shared_ptr<Region> RegionTable::Close(const RegionKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto node = regions_.extract(key);
  if (node.empty()) return nullptr;
  node.mapped()->open.store(false);
  closed_.insert(key);
  closed_in_order_.push_back(key);
  if (closed_in_order_.size() > kRemembered) {
    closed_.erase(closed_in_order_.front());
    closed_in_order_.pop_front();
  }
  return std::move(node.mapped());
}

bool RegionTable::WasClosed(const RegionKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return closed_.count(key) > 0;
}

void RegionTable::AwaitUnused(const Region& region) {
  std::unique_lock<std::mutex> lock(mutex_);
  unused_.wait(lock, [&] { return region.users == 0; });
}

}  // namespace ckpt::host
