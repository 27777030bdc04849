#include "digest.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "ckpt/error.h"
#include "mix.h"
#include "spans.h"

namespace ckpt::host {
namespace {

constexpr std::uint64_t kLargestSlice = std::uint64_t{4} << 20;

/// The terms of the words that start in bytes from … to - 1 of a range, where `from` is a multiple of 8.
std::uint64_t SumPart(const std::byte* data, std::uint64_t from, std::uint64_t to) {
  const std::uint64_t words = (to - from) / 8;
  std::uint64_t sum = SumMixedWords(data + from, words, from / 8 + 1);
  const std::uint64_t rest = (to - from) % 8;
  if (rest != 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + from + words * 8, rest);
    sum += Mix(word + (from / 8 + words + 1) * kGolden);
  }
  return sum;
}

/// Where a cut at `at` falls inside a range of `bytes`: on a whole word, or at the end.
std::uint64_t WordCut(std::uint64_t at, std::uint64_t bytes) { return at == bytes ? bytes : at / 8 * 8; }

}  // namespace

std::uint64_t DigestBytes(const std::byte* data, std::size_t bytes) {
  return Mix(bytes ^ kLengthSalt) + SumPart(data, 0, bytes);
}

std::vector<std::uint64_t> DigestRanges(WorkerPool& pool, unsigned threads,
                                        const std::vector<std::shared_ptr<Mapping>>& memories,
                                        const std::vector<MemoryRange>& ranges, const Cancellation& cancellation) {
  Spans spans;
  spans.Reserve(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); i++) {
    const MemoryRange& range = ranges[i];
    if (range.memory >= memories.size() || !Inside(range.offset, range.bytes, memories[range.memory]->size())) {
      throw Error(code::kInvalidArgument, "range " + std::to_string(i) + " leaves its memory").WithField("ranges");
    }
    spans.Add(range.bytes);
  }
  std::vector<std::atomic<std::uint64_t>> sums(ranges.size());
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t index, std::uint64_t from, std::uint64_t to) {
    const MemoryRange& range = ranges[index];
    const std::byte* data = memories[range.memory]->data() + range.offset;
    const std::uint64_t sum = SumPart(data, WordCut(from, range.bytes), WordCut(to, range.bytes));
    sums[index].fetch_add(sum, std::memory_order_relaxed);
  });
  std::vector<std::uint64_t> digests(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); i++) digests[i] = Mix(ranges[i].bytes ^ kLengthSalt) + sums[i].load();
  return digests;
}

void FillRandom(WorkerPool& pool, unsigned threads, Mapping& memory, std::uint64_t offset, std::uint64_t bytes,
                std::uint64_t seed, const Cancellation& cancellation) {
  if (!Inside(offset, bytes, memory.size())) {
    throw Error(code::kInvalidArgument, "the range to fill leaves the memory").WithField("offset");
  }
  Spans spans;
  spans.Add(bytes);
  std::byte* data = memory.data() + offset;
  // Slices start at multiples of 64, so only the last one can end inside a word.
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t, std::uint64_t from, std::uint64_t to) {
    const std::uint64_t words = (to - from) / 8;
    WriteMixedWords(data + from, words, seed, from / 8 + 1);
    const std::uint64_t rest = (to - from) % 8;
    if (rest == 0) return;
    const std::uint64_t word = Mix(seed + (from / 8 + words + 1) * kGolden);
    std::memcpy(data + from + words * 8, &word, rest);
  });
}

}  // namespace ckpt::host
