#include "mix.h"

#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are little-endian");

namespace ckpt::host {
namespace {

// The loops below are written once and compiled for each instruction set: inlined into a function with a target, the compiler
// uses that target's vectors (AVX-512DQ has a 64-bit multiplication, AVX2 composes one of three 32-bit ones). Dispatch is
// explicit and does not use target_clones, whose resolvers run before the sanitizers are set up.

/// Number of words that are summed between two prefetches, and the prefetch distance. The processor's own prefetches end at
/// each page; with these, sums of uncached memory were a third faster.
constexpr std::size_t kBlockWords = 64;
constexpr std::size_t kAheadBytes = 2048;
constexpr std::size_t kLineBytes = 64;

__attribute__((always_inline)) inline std::uint64_t SumLoop(const std::byte* data, std::size_t words, std::uint64_t first) {
  std::uint64_t sum = 0;
  std::uint64_t key = first * kGolden;
  std::size_t i = 0;
  for (; i + kBlockWords <= words; i += kBlockWords, key += kBlockWords * kGolden) {
    // Never beyond the end: it may be the end of the memory, and what follows must not be accessed.
    if ((i + kBlockWords) * 8 + kAheadBytes <= words * 8) {
      for (std::size_t line = 0; line < kBlockWords * 8; line += kLineBytes)
        __builtin_prefetch(data + i * 8 + kAheadBytes + line);
    }
    std::uint64_t block = 0;
    for (std::size_t j = 0; j < kBlockWords; j++) {
      std::uint64_t word;
      std::memcpy(&word, data + (i + j) * 8, 8);
      block += Mix(word + key + j * kGolden);
    }
    sum += block;
  }
  for (; i < words; i++, key += kGolden) {
    std::uint64_t word;
    std::memcpy(&word, data + i * 8, 8);
    sum += Mix(word + key);
  }
  return sum;
}

__attribute__((always_inline)) inline void WriteLoop(std::byte* data, std::size_t words, std::uint64_t seed,
                                                     std::uint64_t first) {
  for (std::size_t i = 0; i < words; i++) {
    const std::uint64_t word = Mix(seed + (first + i) * kGolden);
    std::memcpy(data + i * 8, &word, 8);
  }
}

std::uint64_t SumPlain(const std::byte* data, std::size_t words, std::uint64_t first) { return SumLoop(data, words, first); }
void WritePlain(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first) {
  WriteLoop(data, words, seed, first);
}

#if defined(__x86_64__)
#if defined(__clang__)
#define CKPT_AVX512 __attribute__((target("avx512f,avx512dq")))  // it does not know the preference
#else
#define CKPT_AVX512 __attribute__((target("avx512f,avx512dq,prefer-vector-width=512")))
#endif
#define CKPT_AVX2 __attribute__((target("avx2")))

CKPT_AVX512 std::uint64_t SumAvx512(const std::byte* data, std::size_t words, std::uint64_t first) {
  return SumLoop(data, words, first);
}
CKPT_AVX2 std::uint64_t SumAvx2(const std::byte* data, std::size_t words, std::uint64_t first) {
  return SumLoop(data, words, first);
}
CKPT_AVX512 void WriteAvx512(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first) {
  WriteLoop(data, words, seed, first);
}
CKPT_AVX2 void WriteAvx2(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first) {
  WriteLoop(data, words, seed, first);
}
#endif

}  // namespace

std::vector<MixLoops> SupportedMixLoops() {
  std::vector<MixLoops> loops = {{"plain", SumPlain, WritePlain}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) loops.push_back({"avx2", SumAvx2, WriteAvx2});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
    loops.push_back({"avx512", SumAvx512, WriteAvx512});
#endif
  return loops;
}

namespace {

const MixLoops& Best() {
  static const MixLoops loops = SupportedMixLoops().back();
  return loops;
}

}  // namespace

std::uint64_t SumMixedWords(const std::byte* data, std::size_t words, std::uint64_t first) {
  return Best().sum(data, words, first);
}

void WriteMixedWords(std::byte* data, std::size_t words, std::uint64_t seed, std::uint64_t first) {
  Best().write(data, words, seed, first);
}

}  // namespace ckpt::host
