#include <cstring>

#include "copy.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ckpt::host {
namespace {

// Below this a copy likely ends up in cache and is read from there; non-temporal stores would only send it to memory.
constexpr std::size_t kNonTemporalBytes = std::size_t{64} << 10;

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

using Stream = void (*)(std::byte*, const std::byte*, std::size_t);

Stream ChooseStream() {
  if (__builtin_cpu_supports("avx512f")) return StreamAvx512;
  if (__builtin_cpu_supports("avx2")) return StreamAvx2;
  return nullptr;
}

#endif

}  // namespace

void CopyBytes(std::byte* destination, const std::byte* source, std::size_t bytes) {
#if defined(__x86_64__)
  static const Stream stream = ChooseStream();
  if (bytes >= kNonTemporalBytes && stream != nullptr) {
    const std::size_t head = (64 - reinterpret_cast<std::uintptr_t>(destination) % 64) % 64;
    const std::size_t body = (bytes - head) / 256 * 256;
    std::memcpy(destination, source, head);
    stream(destination + head, source + head, body);
    std::memcpy(destination + head + body, source + head + body, bytes - head - body);
    return;
  }
#endif
  if (bytes != 0) std::memcpy(destination, source, bytes);
}

}  // namespace ckpt::host
