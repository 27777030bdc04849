#include <cstring>

#include "copy.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ckpt::host {
namespace {

// From this size on non-temporal stores were measured to be faster than memcpy on uncached memory; below it, rows are too short
// to make up for the set-up.
constexpr std::size_t kNonTemporalBytes = std::size_t{8} << 10;

/// In shorter rows too little follows consecutively for the stores to be combined.
constexpr std::size_t kRowBytes = 256;

void CopyPlain(std::byte* destination, const std::byte* source, std::size_t bytes) {
  if (bytes != 0) std::memcpy(destination, source, bytes);
}

template <void (*copy)(std::byte*, const std::byte*, std::size_t)>
void EachRow(std::byte* destination, const std::byte* source, const Rows& rows) {
  for (std::size_t row = 0; row < rows.count; row++) {
    copy(destination + row * rows.destination_pitch, source + row * rows.source_pitch, rows.bytes);
  }
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

/// Large runs use `stream`, which gets an aligned middle part.
template <void (*stream)(std::byte*, const std::byte*, std::size_t)>
void CopyStreamed(std::byte* destination, const std::byte* source, std::size_t bytes) {
  if (bytes < kNonTemporalBytes) return CopyPlain(destination, source, bytes);
  const std::size_t head = (64 - reinterpret_cast<std::uintptr_t>(destination) % 64) % 64;
  const std::size_t body = (bytes - head) / 256 * 256;
  std::memcpy(destination, source, head);
  stream(destination + head, source + head, body);
  std::memcpy(destination + head + body, source + head + body, bytes - head - body);
}

// Rows: `destination` and the rows at both pitches are aligned to 64 bytes, and `rows.bytes` is a multiple of 64. One fence for
// all of them; the prefetch continues into the next row, which the hardware prefetcher does not do across a gap.

constexpr std::size_t kPrefetchBytes = 2048;

/// The position that is kPrefetchBytes of payload ahead of the copy.
class Ahead {
 public:
  Ahead(const std::byte* source, const Rows& rows) : rows_(rows), row_(source) {
    left_ = rows.count;
    for (std::size_t skip = kPrefetchBytes; skip > 0 && left_ > 0;) {
      const std::size_t step = skip < rows_.bytes - column_ ? skip : rows_.bytes - column_;
      Move(step);
      skip -= step;
    }
  }
  void Fetch64() {
    if (left_ == 0) return;
    _mm_prefetch(reinterpret_cast<const char*>(row_ + column_), _MM_HINT_T0);
    Move(64);
  }

 private:
  void Move(std::size_t bytes) {
    column_ += bytes;
    if (column_ < rows_.bytes) return;
    column_ = 0;
    row_ += rows_.source_pitch;
    left_--;
  }
  const Rows& rows_;
  const std::byte* row_;
  std::size_t column_ = 0;
  std::size_t left_;
};

__attribute__((target("avx512f"))) void StreamRowsAvx512(std::byte* destination, const std::byte* source, const Rows& rows) {
  Ahead ahead(source, rows);
  for (std::size_t row = 0; row < rows.count; row++) {
    for (std::size_t at = 0; at < rows.bytes; at += 64) {
      ahead.Fetch64();
      _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + at), _mm512_loadu_si512(source + at));
    }
    source += rows.source_pitch;
    destination += rows.destination_pitch;
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void StreamRowsAvx2(std::byte* destination, const std::byte* source, const Rows& rows) {
  Ahead ahead(source, rows);
  for (std::size_t row = 0; row < rows.count; row++) {
    for (std::size_t at = 0; at < rows.bytes; at += 64) {
      ahead.Fetch64();
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + at + 32));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at), a);
      _mm256_stream_si256(reinterpret_cast<__m256i*>(destination + at + 32), b);
    }
    source += rows.source_pitch;
    destination += rows.destination_pitch;
  }
  _mm_sfence();
}

/// Rows use `stream` if they are long and aligned enough; otherwise each uses `copy`.
template <void (*stream)(std::byte*, const std::byte*, const Rows&), void (*copy)(std::byte*, const std::byte*, std::size_t)>
void CopyRowsStreamed(std::byte* destination, const std::byte* source, const Rows& rows) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(destination) % 64 == 0 && rows.destination_pitch % 64 == 0;
  if (aligned && rows.bytes % 64 == 0 && rows.bytes >= kRowBytes && rows.bytes * rows.count >= kNonTemporalBytes) {
    return stream(destination, source, rows);
  }
  EachRow<copy>(destination, source, rows);
}

#endif

}  // namespace

std::vector<CopyLoop> SupportedCopyLoops() {
  std::vector<CopyLoop> loops = {{"plain", CopyPlain, EachRow<CopyPlain>}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    constexpr auto copy = CopyStreamed<StreamAvx2>;
    loops.push_back({"avx2", copy, CopyRowsStreamed<StreamRowsAvx2, copy>});
  }
  if (__builtin_cpu_supports("avx512f")) {
    constexpr auto copy = CopyStreamed<StreamAvx512>;
    loops.push_back({"avx512", copy, CopyRowsStreamed<StreamRowsAvx512, copy>});
  }
#endif
  return loops;
}

namespace {

const CopyLoop& Best() {
  static const CopyLoop best = SupportedCopyLoops().back();
  return best;
}

}  // namespace

void CopyBytes(std::byte* destination, const std::byte* source, std::size_t bytes) { Best().copy(destination, source, bytes); }

void CopyRows(std::byte* destination, const std::byte* source, const Rows& rows) { Best().rows(destination, source, rows); }

}  // namespace ckpt::host
