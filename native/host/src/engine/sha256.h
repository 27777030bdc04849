#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ckpt::host {

using Sha256Digest = std::array<std::uint8_t, 32>;

/// SHA-256 (FIPS 180-4) of data that comes in pieces.
class Sha256 {
 public:
  void Update(const void* data, std::size_t bytes) noexcept;
  /// The digest; the object is used up.
  Sha256Digest Finish() noexcept;

 private:
  void Compress(const std::uint8_t* block) noexcept;

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> block_{};
  std::uint64_t bytes_ = 0;
};

/// HMAC-SHA-256 (RFC 2104) of `message`.
Sha256Digest HmacSha256(std::string_view key, std::string_view message) noexcept;

/// Compares in a time that tells nothing of where the two differ.
bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b) noexcept;

}  // namespace ckpt::host
