#include <cstring>

#include "copy.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ckpt::host {
namespace {

// From here on non-temporal stores were measured to be faster than memcpy on memory that is in no cache; below, rows are too
// short for their set-up to pay.
constexpr std::size_t kNonTemporalBytes = std::size_t{8} << 10;

void CopyPlain(std::byte* destination, const std::byte* source, std::size_t bytes) {
  if (bytes != 0) std::memcpy(destination, source, bytes);
}

#if defined(__x86_64__)

// Both loops: `destination` is aligned to the vector, `bytes` a multiple of four of them.

__attribute__((target("avx512f"))) void StreamAvx512(std::byte* destination, const std::byte* source, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 256) {
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048 + 64), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048 + 128), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048 + 192), _MM_HINT_T0);
    const __m512i a = _mm512_loadu_si512(source + at);
    const __m512i b = _mm512_loadu_si512(source + at + 64);
    const __m512i c = _mm512_loadu_si512(source + at + 128);
    const __m512i d = _mm512_loadu_si512(source + at + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at + 192), d);
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void StreamAvx2(std::byte* destination, const std::byte* source, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 2048 + 64), _MM_HINT_T0);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at + 32));
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at + 64));
    const __m256i d = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at + 96));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at + 32), b);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at + 64), c);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at + 96), d);
  }
  _mm_sfence();
}

/// Large runs by `stream`, which is given an aligned middle.
template <void (*stream)(std::byte*, const std::byte*, std::size_t)>
void CopyStreamed(std::byte* destination, const std::byte* source, std::size_t bytes) {
  if (bytes < kNonTemporalBytes) return CopyPlain(destination, source, bytes);
  const std::size_t head = (64 - reinterpret_cast<std::uintptr_t>(destination) % 64) % 64;
  const std::size_t body = (bytes - head) / 256 * 256;
  std::memcpy(destination, source, head);
  stream(destination + head, source + head, body);
  std::memcpy(destination + head + body, source + head + body, bytes - head - body);
}

#endif

}  // namespace

std::vector<CopyLoop> SupportedCopyLoops() {
  std::vector<CopyLoop> loops = {{"plain", CopyPlain}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) loops.push_back({"avx2", CopyStreamed<StreamAvx2>});
  if (__builtin_cpu_supports("avx512f")) loops.push_back({"avx512", CopyStreamed<StreamAvx512>});
#endif
  return loops;
}

void CopyBytes(std::byte* destination, const std::byte* source, std::size_t bytes) {
  static const CopyLoop best = SupportedCopyLoops().back();
  best.copy(destination, source, bytes);
}

}  // namespace ckpt::host
