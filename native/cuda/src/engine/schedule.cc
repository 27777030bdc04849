#include "schedule.h"

#include <algorithm>
#include <string>

#include "ckpt/error.h"

namespace ckpt::cuda {
namespace {

constexpr std::uint64_t kChunkUnit = 4096;

[[noreturn]] void Reject(const std::string& message, const char* field) {
  throw Error(code::kInvalidArgument, message).WithField(field);
}

bool Inside(std::uint64_t offset, std::uint64_t length, std::uint64_t whole) {
  return offset <= whole && length <= whole - offset;
}

}  // namespace

Schedule::Schedule(Job job) : job_(std::move(job)) {
  Validate();
  SortCopies();
  BuildSteps();
}

void Schedule::Validate() const {
  if (job_.size == 0 || job_.position >= job_.size)
    Reject("position " + std::to_string(job_.position) + " is not among the members", "position");
  if (job_.chunk_bytes == 0) Reject("chunkBytes is 0", "chunkBytes");
  if (job_.timeout_ms == 0) Reject("timeoutMs is not above 0", "timeoutMs");
  if (job_.first_copy.size() != job_.buckets.size() + 1 || job_.first_copy.front() != 0 ||
      job_.first_copy.back() != job_.copies.size()) {
    Reject("firstCopy does not divide the copies among the buckets", "copies.firstCopy");
  }
  for (std::size_t b = 0; b < job_.buckets.size(); b++) {
    const PipelineBucket& bucket = job_.buckets[b];
    const std::string name = "bucket " + std::to_string(b);
    if (bucket.owner >= job_.size) Reject(name + " belongs to no member", "buckets.owner");
    if (!Inside(bucket.ring_offset, bucket.bytes, job_.ring_bytes))
      Reject(name + " lies outside the ring", "buckets.ringOffset");
    if (bucket.after < -1 || bucket.after >= static_cast<std::int64_t>(b))
      Reject(name + " waits for a later one", "buckets.after");
    if (job_.first_copy[b] > job_.first_copy[b + 1]) Reject(name + " has a negative number of copies", "copies.firstCopy");
    for (std::size_t c = job_.first_copy[b]; c < job_.first_copy[b + 1]; c++) {
      const PipelineCopy& copy = job_.copies[c];
      if (copy.source >= job_.sources.size()) Reject(name + " is copied from no source", "copies.segment");
      if (!Inside(copy.source_offset, copy.bytes, job_.sources[copy.source].bytes)) {
        Reject("a copy of " + name + " lies outside its source", "copies.segmentOffset");
      }
      if (!Inside(copy.bucket_offset, copy.bytes, bucket.bytes)) {
        Reject("a copy of " + name + " lies outside the bucket", "copies.bucketOffset");
      }
    }
  }
}

void Schedule::SortCopies() {
  for (std::size_t b = 0; b < job_.buckets.size(); b++) {
    const auto first = job_.copies.begin() + job_.first_copy[b];
    const auto last = job_.copies.begin() + job_.first_copy[b + 1];
    std::sort(first, last, [](const PipelineCopy& x, const PipelineCopy& y) { return x.bucket_offset < y.bucket_offset; });
    for (auto copy = first; copy != last; ++copy) {
      if (copy + 1 != last && copy->bucket_offset + copy->bytes > (copy + 1)->bucket_offset) {
        Reject("copies of bucket " + std::to_string(b) + " overlap", "copies.bucketOffset");
      }
    }
  }
}

void Schedule::BuildSteps() {
  const std::uint64_t unit = (job_.chunk_bytes + kChunkUnit - 1) / kChunkUnit * kChunkUnit;
  const std::size_t count = job_.buckets.size();
  std::vector<char> busy(job_.size, 0);
  for (std::size_t first = 0; first < count;) {
    // A round: consecutive buckets of different owners that do not wait for each other.
    std::size_t end = first;
    std::int32_t round_after = -1;
    std::fill(busy.begin(), busy.end(), 0);
    while (end < count && !busy[job_.buckets[end].owner] && job_.buckets[end].after < static_cast<std::int64_t>(first) &&
           !(job_.serial && end > first)) {
      busy[job_.buckets[end].owner] = 1;
      round_after = std::max(round_after, job_.buckets[end].after);
      end++;
    }
    if (job_.serial) round_after = static_cast<std::int32_t>(first) - 1;
    const auto round = static_cast<std::uint32_t>(rounds_.size());
    rounds_.push_back({static_cast<std::uint32_t>(steps_.size()), static_cast<std::uint32_t>(own_.size())});
    for (std::uint64_t start = 0;; start += unit) {
      Step step{static_cast<std::uint32_t>(chunks_.size()), 0, round_after, round};
      for (std::size_t b = first; b < end; b++) {
        const PipelineBucket& bucket = job_.buckets[b];
        if (start >= bucket.bytes && !(start == 0 && bucket.bytes == 0)) continue;
        const std::uint64_t bytes = std::min(unit, bucket.bytes - start);
        if (bucket.owner == job_.position) own_.push_back(static_cast<std::uint32_t>(chunks_.size()));
        chunks_.push_back({static_cast<std::uint32_t>(b), bucket.owner, bucket.ring_offset + start, bytes,
                           start + bytes == bucket.bytes, job_.serial ? round_after : bucket.after, round});
        step.chunk_count++;
      }
      if (step.chunk_count == 0) break;
      steps_.push_back(step);
    }
    first = end;
  }
  rounds_.push_back({static_cast<std::uint32_t>(steps_.size()), static_cast<std::uint32_t>(own_.size())});
}

Job Beginning(const Job& job, std::uint64_t bytes) {
  Job part = job;
  // Only used for measuring: any contents of the sources will do.
  part.arrive_in = ArriveIn::kNowhere;
  part.buckets.clear();
  part.copies.clear();
  part.first_copy = {0};
  std::vector<std::uint64_t> given(job.size, 0);
  for (std::size_t b = 0; b < job.buckets.size(); b++) {
    PipelineBucket bucket = job.buckets[b];
    if (given[bucket.owner] >= bytes) break;
    bucket.bytes = std::min(bucket.bytes, bytes - given[bucket.owner]);
    given[bucket.owner] += bucket.bytes;
    for (std::size_t c = job.first_copy[b]; c < job.first_copy[b + 1]; c++) {
      PipelineCopy copy = job.copies[c];
      if (copy.bucket_offset >= bucket.bytes) continue;
      copy.bytes = std::min(copy.bytes, bucket.bytes - copy.bucket_offset);
      part.copies.push_back(copy);
    }
    part.buckets.push_back(bucket);
    part.first_copy.push_back(static_cast<std::uint32_t>(part.copies.size()));
  }
  return part;
}

std::vector<Piece> Schedule::PiecesOf(const Chunk& chunk) const {
  const PipelineBucket& bucket = job_.buckets[chunk.bucket];
  const std::uint64_t low = chunk.offset - bucket.ring_offset;
  const std::uint64_t high = low + chunk.bytes;
  const auto first = job_.copies.begin() + job_.first_copy[chunk.bucket];
  const auto last = job_.copies.begin() + job_.first_copy[chunk.bucket + 1];
  auto copy = std::partition_point(first, last, [&](const PipelineCopy& c) { return c.bucket_offset + c.bytes <= low; });
  std::vector<Piece> pieces;
  for (; copy != last && copy->bucket_offset < high; ++copy) {
    const Job::Source& source = job_.sources[copy->source];
    std::uint64_t from = std::max(low, copy->bucket_offset);
    const std::uint64_t to = std::min(high, copy->bucket_offset + copy->bytes);
    while (from < to) {
      const std::uint64_t at = copy->source_offset + (from - copy->bucket_offset);
      std::uint64_t length = to - from;
      if (source.slice_bytes != 0) length = std::min(length, source.slice_bytes - at % source.slice_bytes);
      const std::byte* data = source.data + at;
      const std::uint64_t offset = bucket.ring_offset + from;
      if (!pieces.empty() && pieces.back().offset + pieces.back().bytes == offset &&
          pieces.back().from + pieces.back().bytes == data && source.slice_bytes != 0 && at % source.slice_bytes != 0) {
        pieces.back().bytes += length;
      } else {
        pieces.push_back({offset, data, length});
      }
      from += length;
    }
  }
  return pieces;
}

}  // namespace ckpt::cuda
