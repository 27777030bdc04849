#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ckpt::host {

/// The constants and the bijection of docs/worker-protocol.md, "Digest".
inline constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
inline constexpr std::uint64_t kLengthSalt = 0xff51afd7ed558ccd;

__attribute__((always_inline)) inline std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93;
  x ^= x >> 32;
  return x;
}

/// The loops over words, for one instruction set.
struct MixLoops {
  const char* instructions;
  std::uint64_t (*sum)(const std::byte* data, std::size_t words, std::uint64_t first);
  void (*write)(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first);
};

/// Loops that this CPU can run, slowest first.
std::vector<MixLoops> SupportedMixLoops();

/// Sum over `words` little-endian words at `data` (of any alignment) of Mix(word + key), where the key starts at
/// `first * kGolden` and grows by kGolden each word. Uses the last of SupportedMixLoops().
std::uint64_t SumMixedWords(const std::byte* data, std::size_t words, std::uint64_t first);

/// Writes Mix(seed + (first + i) * kGolden) as word i, for `words` words.
void WriteMixedWords(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first);

}  // namespace ckpt::host
