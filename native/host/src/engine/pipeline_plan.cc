#include "pipeline_plan.h"

#include <algorithm>
#include <utility>

namespace ckpt::host {
namespace {

PipelineFailure invalid(std::string message) { return {FailureCode::invalidArgument, std::move(message), -1}; }

bool inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) { return offset <= size && bytes <= size - offset; }

std::string range(std::uint64_t offset, std::uint64_t bytes) {
  return std::to_string(bytes) + " bytes at " + std::to_string(offset);
}

std::optional<PipelineFailure> checkMembers(const PipelineSpec& spec) {
  if (spec.rings.empty() || spec.position >= spec.rings.size()) {
    return invalid("position " + std::to_string(spec.position) + " of " + std::to_string(spec.rings.size()) + " members");
  }
  for (std::size_t i = 0; i < spec.rings.size(); ++i) {
    if (spec.rings[i].control == nullptr) return invalid("member " + std::to_string(i) + " has no ring");
    for (std::size_t j = 0; j < i; ++j) {
      if (spec.rings[i].control == spec.rings[j].control) {
        return invalid("members " + std::to_string(j) + " and " + std::to_string(i) + " have the same ring");
      }
    }
  }
  if (spec.chunkBytes == 0) return invalid("chunkBytes is 0");
  if (spec.timeoutMs == 0) return invalid("timeoutMs is 0");
  const auto before = spec.rings[spec.position].control->generation.value.load();
  if (spec.generation <= before) {
    return invalid("generation " + std::to_string(spec.generation) + " is not above the ring's " + std::to_string(before));
  }
  return std::nullopt;
}

std::optional<PipelineFailure> checkBuckets(const PipelineSpec& spec) {
  if (spec.buckets.size() >= kNoBucket) return invalid("too many buckets");
  if (spec.firstCopy.size() != spec.buckets.size() + 1) return invalid("firstCopy must have one entry more than there are buckets");
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto& bucket = spec.buckets[b];
    const auto name = "bucket " + std::to_string(b);
    if (bucket.owner >= spec.rings.size()) {
      return invalid(name + ": owner " + std::to_string(bucket.owner) + " of " + std::to_string(spec.rings.size()) + " members");
    }
    for (std::size_t i = 0; i < spec.rings.size(); ++i) {
      if (inside(bucket.ringOffset, bucket.bytes, spec.rings[i].bytes)) continue;
      return invalid(name + ": " + range(bucket.ringOffset, bucket.bytes) + " leave the ring of member " + std::to_string(i) + " (" +
                     std::to_string(spec.rings[i].bytes) + " bytes)");
    }
    if (bucket.after < -1 || bucket.after >= static_cast<std::int64_t>(b)) {
      return invalid(name + ": after " + std::to_string(bucket.after) + " is not an earlier bucket");
    }
    if (spec.firstCopy[b] > spec.firstCopy[b + 1] || spec.firstCopy[b + 1] > spec.copies.size()) {
      return invalid(name + ": firstCopy is not ascending within the copies");
    }
    if (bucket.owner != spec.position && spec.firstCopy[b] != spec.firstCopy[b + 1]) {
      return invalid(name + ": has copies, but belongs to member " + std::to_string(bucket.owner));
    }
  }
  return std::nullopt;
}

std::optional<PipelineFailure> checkCopies(const PipelineSpec& spec) {
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    for (auto c = spec.firstCopy[b]; c < spec.firstCopy[b + 1]; ++c) {
      const auto& copy = spec.copies[c];
      const auto name = "copy " + std::to_string(c) + " of bucket " + std::to_string(b);
      if (copy.source >= spec.sources.size()) {
        return invalid(name + ": source " + std::to_string(copy.source) + " of " + std::to_string(spec.sources.size()));
      }
      if (!inside(copy.sourceOffset, copy.bytes, spec.sources[copy.source].bytes)) {
        return invalid(name + ": " + range(copy.sourceOffset, copy.bytes) + " leave source " + std::to_string(copy.source) + " (" +
                       std::to_string(spec.sources[copy.source].bytes) + " bytes)");
      }
      if (!inside(copy.bucketOffset, copy.bytes, spec.buckets[b].bytes)) {
        return invalid(name + ": " + range(copy.bucketOffset, copy.bytes) + " leave the bucket (" +
                       std::to_string(spec.buckets[b].bytes) + " bytes)");
      }
    }
  }
  return std::nullopt;
}

std::optional<PipelineFailure> sortCopies(PipelineSpec& spec) {
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto first = spec.copies.begin() + spec.firstCopy[b];
    const auto last = spec.copies.begin() + spec.firstCopy[b + 1];
    std::sort(first, last, [](const PipelineCopy& x, const PipelineCopy& y) {
      return std::make_pair(x.bucketOffset, x.bytes) < std::make_pair(y.bucketOffset, y.bytes);
    });
    for (auto copy = first; copy != last && copy + 1 != last; ++copy) {
      if (copy->bucketOffset + copy->bytes <= (copy + 1)->bucketOffset) continue;
      return invalid("bucket " + std::to_string(b) + ": two copies write to byte " + std::to_string((copy + 1)->bucketOffset));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<PipelineFailure> preparePipeline(PipelineSpec spec, PreparedPipeline& prepared) {
  if (auto failure = checkMembers(spec)) return failure;
  if (auto failure = checkBuckets(spec)) return failure;
  if (auto failure = checkCopies(spec)) return failure;
  if (auto failure = sortCopies(spec)) return failure;

  prepared.buckets.resize(spec.buckets.size());
  prepared.own.clear();
  prepared.foreign.clear();
  std::vector<std::uint64_t> produced(spec.rings.size(), 0);
  // ownUpTo[b]: number of the last own bucket among 0 … b - 1, plus one; 0 when there is none.
  std::vector<std::uint64_t> ownUpTo(spec.buckets.size() + 1, 0);
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto& bucket = spec.buckets[b];
    auto& out = prepared.buckets[b];
    out.producedBefore = produced[bucket.owner];
    produced[bucket.owner] += bucket.bytes;
    out.releasedBefore = spec.serial ? b : static_cast<std::uint64_t>(bucket.after + 1);
    // Peers read nothing but this member's own buckets from its ring, so only those hold it up.
    out.receivedBefore = ownUpTo[out.releasedBefore];
    const bool own = bucket.owner == spec.position;
    ownUpTo[b + 1] = own ? b + 1 : ownUpTo[b];
    (own ? prepared.own : prepared.foreign).push_back(static_cast<std::uint32_t>(b));
  }
  prepared.spec = std::move(spec);
  return std::nullopt;
}

}  // namespace ckpt::host
