#include "digest.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

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

/// Position of a cut at `at` in a range of `bytes`: at a whole word, or at the end.
std::uint64_t WordCut(std::uint64_t at, std::uint64_t bytes) { return at == bytes ? bytes : at / 8 * 8; }

/// The terms of `bytes` bytes at `data`, which are at `position` in their tensor. `unit` divides both.
std::uint64_t SumRun(const std::byte* data, std::uint64_t bytes, std::uint64_t position, std::uint64_t unit) {
  if (unit == 8) return SumMixedWords(data, bytes / 8, position / 8 + 1);
  std::uint64_t sum = 0;
  for (std::uint64_t at = 0; at < bytes; at += unit) {
    std::uint64_t value = 0;
    std::memcpy(&value, data + at, unit);
    const std::uint64_t place = position + at;
    sum += Mix((value << (8 * (place % 8))) + (place / 8 + 1) * kGolden);
  }
  return sum;
}

/// Bytes from … to - 1 of rows, counted without the gaps between them; cuts inside a row are at whole units.
std::uint64_t SumPartOfRows(const SummedRows& rows, const std::byte* data, std::uint64_t from, std::uint64_t to) {
  const auto cut = [&rows](std::uint64_t at) { return at / rows.unit * rows.unit; };
  std::uint64_t sum = 0;
  for (from = cut(from), to = cut(to); from < to;) {
    const std::uint64_t row = from / rows.row_bytes;
    const std::uint64_t column = from % rows.row_bytes;
    const std::uint64_t bytes = std::min(to - from, rows.row_bytes - column);
    sum += SumRun(data + rows.offset + row * rows.pitch + column, bytes, rows.position + row * rows.position_pitch + column,
                  rows.unit);
    from += bytes;
  }
  return sum;
}

/// @throws Error INVALID_ARGUMENT.
void CheckRange(std::size_t index, const MemoryRange& range, const std::vector<std::shared_ptr<Mapping>>& memories) {
  if (range.memory < memories.size() && Inside(range.offset, range.bytes, memories[range.memory]->size())) return;
  throw Error(code::kInvalidArgument, "range " + std::to_string(index) + " is outside its memory").WithField("ranges");
}

[[noreturn]] void RefuseRows(std::size_t index, const char* what) {
  throw Error(code::kInvalidArgument, "rows " + std::to_string(index) + ": " + what).WithField("rows");
}

/// Number of readable bytes of rows. @throws Error INVALID_ARGUMENT.
std::uint64_t CheckRows(std::size_t index, const SummedRows& rows, const std::vector<std::shared_ptr<Mapping>>& memories,
                        std::size_t outputs) {
  if (rows.output >= outputs) RefuseRows(index, "there is no such output");
  if (rows.rows == 0 || rows.row_bytes == 0) return 0;
  if (rows.unit != 1 && rows.unit != 2 && rows.unit != 4 && rows.unit != 8) RefuseRows(index, "the unit is not 1, 2, 4 or 8");
  if (rows.row_bytes % rows.unit != 0 || rows.position % rows.unit != 0 || rows.position_pitch % rows.unit != 0) {
    RefuseRows(index, "the unit does not divide them");
  }
  if (rows.memory >= memories.size()) RefuseRows(index, "there is no such memory");
  std::uint64_t last = 0;
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(rows.rows - 1, rows.pitch, &last) || __builtin_add_overflow(last, rows.row_bytes, &last) ||
      __builtin_mul_overflow(rows.rows, rows.row_bytes, &bytes) || !Inside(rows.offset, last, memories[rows.memory]->size())) {
    RefuseRows(index, "the rows are outside their memory");
  }
  return bytes;
}

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
    CheckRange(i, ranges[i], memories);
    spans.Add(ranges[i].bytes);
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

DigestsOnArrival::DigestsOnArrival(const std::vector<std::shared_ptr<Mapping>>& memories,
                                   const std::vector<MemoryRange>& ranges)
    : memories_(memories), ranges_(ranges), sums_(ranges.size()), arrived_(ranges.size()) {
  for (std::size_t i = 0; i < ranges.size(); i++) {
    CheckRange(i, ranges[i], memories);
    if (ranges[i].bytes > 0) order_.push_back(i);
  }
  std::sort(order_.begin(), order_.end(), [&ranges](std::size_t a, std::size_t b) {
    return std::pair(ranges[a].memory, ranges[a].offset) < std::pair(ranges[b].memory, ranges[b].offset);
  });
  for (std::size_t i = 1; i < order_.size(); i++) {
    const MemoryRange& before = ranges[order_[i - 1]];
    const MemoryRange& range = ranges[order_[i]];
    if (before.memory == range.memory && range.offset - before.offset < before.bytes) {
      throw Error(code::kInvalidArgument, "range " + std::to_string(order_[i]) + " overlaps with a different one")
          .WithField("ranges");
    }
  }
}

void DigestsOnArrival::Arrived(std::size_t memory, std::uint64_t offset, std::uint64_t bytes) {
  // The first range that ends after the piece's start.
  auto next = std::partition_point(order_.begin(), order_.end(), [&](std::size_t index) {
    const MemoryRange& range = ranges_[index];
    return range.memory < memory || (range.memory == memory && range.offset + range.bytes <= offset);
  });
  for (; next != order_.end(); ++next) {
    const MemoryRange& range = ranges_[*next];
    if (range.memory != memory || range.offset >= offset + bytes) return;
    const std::uint64_t from = std::max(offset, range.offset) - range.offset;
    const std::uint64_t to = std::min(offset + bytes, range.offset + range.bytes) - range.offset;
    Add(*next, from, to);
  }
}

void DigestsOnArrival::Add(std::size_t index, std::uint64_t from, std::uint64_t to) {
  const MemoryRange& range = ranges_[index];
  arrived_[index].fetch_add(to - from, std::memory_order_relaxed);
  // Words that are entirely inside the piece; the last word of a range may have fewer bytes.
  const std::uint64_t first = (from + 7) / 8 * 8;
  const std::uint64_t last = WordCut(to, range.bytes);
  if (first < last) {
    const std::uint64_t sum = SumPart(memories_[range.memory]->data() + range.offset, first, last);
    sums_[index].fetch_add(sum, std::memory_order_relaxed);
  }
  if (from == first && to == last) return;
  const std::lock_guard lock(mutex_);
  if (from != first) cut_.push_back({index, from / 8});
  if (to != last) cut_.push_back({index, to / 8});
}

std::vector<std::uint64_t> DigestsOnArrival::Finish() {
  const std::lock_guard lock(mutex_);
  // All pieces that share a word have recorded it.
  const auto place = [](const Word& word) { return std::pair(word.range, word.index); };
  std::sort(cut_.begin(), cut_.end(), [&](const Word& a, const Word& b) { return place(a) < place(b); });
  cut_.erase(std::unique(cut_.begin(), cut_.end(), [&](const Word& a, const Word& b) { return place(a) == place(b); }),
             cut_.end());
  std::vector<std::uint64_t> digests(ranges_.size());
  for (std::size_t i = 0; i < ranges_.size(); i++) {
    if (arrived_[i].load() != ranges_[i].bytes) {
      throw Error(code::kInvalidArgument, "of the " + std::to_string(ranges_[i].bytes) + " bytes of range " +
                                              std::to_string(i) + ", " + std::to_string(arrived_[i].load()) + " were read")
          .WithField("ranges");
    }
    digests[i] = Mix(ranges_[i].bytes ^ kLengthSalt) + sums_[i].load();
  }
  for (const auto& [index, word] : cut_) {
    const MemoryRange& range = ranges_[index];
    digests[index] += SumPart(memories_[range.memory]->data() + range.offset, word * 8, std::min(word * 8 + 8, range.bytes));
  }
  return digests;
}

std::vector<std::uint64_t> SumRows(WorkerPool& pool, unsigned threads, const std::vector<std::shared_ptr<Mapping>>& memories,
                                   const std::vector<SummedRows>& rows, std::size_t outputs, const Cancellation& cancellation) {
  Spans spans;
  spans.Reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); i++) {
    const std::uint64_t bytes = CheckRows(i, rows[i], memories, outputs);
    if (std::uint64_t sum = 0; __builtin_add_overflow(spans.total(), bytes, &sum))
      RefuseRows(i, "more bytes than can be counted");
    spans.Add(bytes);
  }
  std::vector<std::atomic<std::uint64_t>> sums(outputs);
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t index, std::uint64_t from, std::uint64_t to) {
    const SummedRows& one = rows[index];
    const std::uint64_t sum = SumPartOfRows(one, memories[one.memory]->data(), from, to);
    sums[one.output].fetch_add(sum, std::memory_order_relaxed);
  });
  return std::vector<std::uint64_t>(sums.begin(), sums.end());
}

void FillRandom(WorkerPool& pool, unsigned threads, Mapping& memory, std::uint64_t offset, std::uint64_t bytes,
                std::uint64_t seed, const Cancellation& cancellation) {
  if (!Inside(offset, bytes, memory.size())) {
    throw Error(code::kInvalidArgument, "the range to fill is outside the memory").WithField("offset");
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
