#include "copy.h"

#include <algorithm>
#include <string>

#include "ckpt/error.h"
#include "spans.h"

namespace ckpt::host {
namespace {

constexpr std::uint64_t kLargestSlice = std::uint64_t{8} << 20;

[[noreturn]] void Refuse(std::size_t index, const std::string& what, const char* field) {
  throw Error(code::kInvalidArgument, "copy " + std::to_string(index) + ": " + what).WithField(field);
}

/// Checks one side of a non-empty copy.
void CheckSide(std::size_t index, const char* field, const std::vector<std::shared_ptr<Mapping>>& memories, std::size_t memory,
               std::uint64_t offset, std::uint64_t pitch, const StridedCopy& copy) {
  if (memory >= memories.size()) Refuse(index, std::string("its ") + field + " is not in the list of memories", field);
  const std::uint64_t size = memories[memory]->size();
  std::uint64_t last = 0;
  if (__builtin_mul_overflow(copy.rows - 1, pitch, &last) || __builtin_add_overflow(last, copy.row_bytes, &last) ||
      !Inside(offset, last, size)) {
    Refuse(index, std::string("it is outside its ") + field + " of " + std::to_string(size) + " bytes", field);
  }
}

/// Copies bytes from … to - 1 of a copy, counted over its rows without the gaps.
void CopyPart(const StridedCopy& copy, const std::byte* source, std::byte* destination, std::uint64_t from, std::uint64_t to) {
  source += copy.source_offset;
  destination += copy.destination_offset;
  if (copy.rows == 1 || (copy.source_pitch == copy.row_bytes && copy.destination_pitch == copy.row_bytes)) {
    CopyBytes(destination + from, source + from, to - from);
    return;
  }
  std::uint64_t row = from / copy.row_bytes;
  // The rest of a started row, whole rows, and the beginning of another.
  const auto piece = [&](std::uint64_t column, std::uint64_t bytes) {
    CopyBytes(destination + row * copy.destination_pitch + column, source + row * copy.source_pitch + column, bytes);
  };
  if (const std::uint64_t column = from % copy.row_bytes; column > 0) {
    const std::uint64_t bytes = std::min(to - from, copy.row_bytes - column);
    piece(column, bytes);
    from += bytes;
    row++;
  }
  if (const std::uint64_t whole = (to - from) / copy.row_bytes; whole > 0) {
    CopyRows(destination + row * copy.destination_pitch, source + row * copy.source_pitch,
             {copy.row_bytes, whole, copy.source_pitch, copy.destination_pitch});
    from += whole * copy.row_bytes;
    row += whole;
  }
  if (to > from) piece(0, to - from);
}

}  // namespace

std::uint64_t CopyStrided(WorkerPool& pool, unsigned threads, const std::vector<std::shared_ptr<Mapping>>& memories,
                          const std::vector<StridedCopy>& copies, const Cancellation& cancellation) {
  Spans spans;
  spans.Reserve(copies.size());
  for (std::size_t i = 0; i < copies.size(); i++) {
    const StridedCopy& copy = copies[i];
    if (copy.rows == 0 || copy.row_bytes == 0) {
      spans.Add(0);
      continue;
    }
    CheckSide(i, "source", memories, copy.source, copy.source_offset, copy.source_pitch, copy);
    CheckSide(i, "destination", memories, copy.destination, copy.destination_offset, copy.destination_pitch, copy);
    if (copy.rows > 1 && copy.destination_pitch < copy.row_bytes) {
      Refuse(i, "its rows overlap in the destination", "destinationPitch");
    }
    std::uint64_t bytes = 0;
    std::uint64_t sum = 0;
    if (__builtin_mul_overflow(copy.rows, copy.row_bytes, &bytes) || __builtin_add_overflow(spans.total(), bytes, &sum)) {
      Refuse(i, "more bytes than can be counted", "rows");
    }
    spans.Add(bytes);
  }
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t index, std::uint64_t from, std::uint64_t to) {
    const StridedCopy& copy = copies[index];
    CopyPart(copy, memories[copy.source]->data(), memories[copy.destination]->data(), from, to);
  });
  return spans.total();
}

}  // namespace ckpt::host
