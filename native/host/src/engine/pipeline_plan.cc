#include "pipeline_plan.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace ckpt::host {
namespace {

[[noreturn]] void Invalid(const std::string& message) { throw Error(code::kInvalidArgument, message); }

bool Inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) { return offset <= size && bytes <= size - offset; }

std::string Range(std::uint64_t offset, std::uint64_t bytes) {
  return std::to_string(bytes) + " bytes at " + std::to_string(offset);
}

void CheckMembers(const PipelineSpec& spec) {
  if (spec.rings.empty() || spec.position >= spec.rings.size()) {
    Invalid("position " + std::to_string(spec.position) + " of " + std::to_string(spec.rings.size()) + " members");
  }
  for (std::size_t i = 0; i < spec.rings.size(); ++i) {
    if (spec.rings[i].control == nullptr) Invalid("member " + std::to_string(i) + " has no ring");
    for (std::size_t j = 0; j < i; ++j) {
      if (spec.rings[i].control == spec.rings[j].control) {
        Invalid("members " + std::to_string(j) + " and " + std::to_string(i) + " have the same ring");
      }
    }
  }
  if (spec.chunk_bytes == 0) Invalid("chunkBytes is 0");
  if (spec.timeout_ms == 0) Invalid("timeoutMs is 0");
  const auto before = spec.rings[spec.position].control->generation.value.load();
  if (spec.generation <= before) {
    Invalid("generation " + std::to_string(spec.generation) + " is not above the ring's " + std::to_string(before));
  }
}

void CheckBuckets(const PipelineSpec& spec) {
  if (spec.buckets.size() >= kNoBucket) Invalid("too many buckets");
  if (spec.first_copy.size() != spec.buckets.size() + 1) Invalid("firstCopy must have one entry more than there are buckets");
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto& bucket = spec.buckets[b];
    const auto name = "bucket " + std::to_string(b);
    if (bucket.owner >= spec.rings.size()) {
      Invalid(name + ": owner " + std::to_string(bucket.owner) + " of " + std::to_string(spec.rings.size()) + " members");
    }
    for (std::size_t i = 0; i < spec.rings.size(); ++i) {
      if (Inside(bucket.ring_offset, bucket.bytes, spec.rings[i].bytes)) continue;
      Invalid(name + ": " + Range(bucket.ring_offset, bucket.bytes) + " are outside the ring of member " + std::to_string(i) +
              " (" + std::to_string(spec.rings[i].bytes) + " bytes)");
    }
    if (bucket.after < -1 || bucket.after >= static_cast<std::int64_t>(b)) {
      Invalid(name + ": after " + std::to_string(bucket.after) + " is not an earlier bucket");
    }
    if (spec.first_copy[b] > spec.first_copy[b + 1] || spec.first_copy[b + 1] > spec.copies.size()) {
      Invalid(name + ": firstCopy is not ascending within the copies");
    }
    if (bucket.owner != spec.position && spec.first_copy[b] != spec.first_copy[b + 1]) {
      Invalid(name + ": has copies, but belongs to member " + std::to_string(bucket.owner));
    }
    if (spec.arrive_in == ArriveIn::kRing && spec.first_copy[b] != spec.first_copy[b + 1]) {
      Invalid(name + ": has copies, but its bytes arrive in the ring");
    }
  }
}

void CheckCopies(const PipelineSpec& spec) {
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    for (auto c = spec.first_copy[b]; c < spec.first_copy[b + 1]; ++c) {
      const auto& copy = spec.copies[c];
      const auto name = "copy " + std::to_string(c) + " of bucket " + std::to_string(b);
      if (copy.source >= spec.sources.size()) {
        Invalid(name + ": source " + std::to_string(copy.source) + " of " + std::to_string(spec.sources.size()));
      }
      if (!Inside(copy.source_offset, copy.bytes, spec.sources[copy.source].bytes)) {
        Invalid(name + ": " + Range(copy.source_offset, copy.bytes) + " are outside source " + std::to_string(copy.source) +
                " (" + std::to_string(spec.sources[copy.source].bytes) + " bytes)");
      }
      if (!Inside(copy.bucket_offset, copy.bytes, spec.buckets[b].bytes)) {
        Invalid(name + ": " + Range(copy.bucket_offset, copy.bytes) + " are outside the bucket (" +
                std::to_string(spec.buckets[b].bytes) + " bytes)");
      }
    }
  }
}

void SortCopies(PipelineSpec& spec) {
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto first = spec.copies.begin() + spec.first_copy[b];
    const auto last = spec.copies.begin() + spec.first_copy[b + 1];
    std::sort(first, last, [](const PipelineCopy& x, const PipelineCopy& y) {
      return std::make_pair(x.bucket_offset, x.bytes) < std::make_pair(y.bucket_offset, y.bytes);
    });
    for (auto copy = first; copy != last && copy + 1 != last; ++copy) {
      if (copy->bucket_offset + copy->bytes <= (copy + 1)->bucket_offset) continue;
      Invalid("bucket " + std::to_string(b) + ": two copies write to byte " + std::to_string((copy + 1)->bucket_offset));
    }
  }
}

/// Whether the rings are too large for the last-level cache, so that stores should bypass it.
///
/// Measured on 2 cores with 32 MiB of L3, 2 members, 1 GiB moved, median of 32 runs next to other work: rings of 12 MiB each,
/// which stay in the cache from H2D to the reload, 30-40 GB/s through the caches and 27 bypassing them; rings of 384 MiB 12-14
/// and 26 GB/s. Bypassing the caches only in H2D was slower than either. In between (48 MiB each) both were equal.
bool ExceedCache(const PipelineSpec& spec) {
  const long reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const std::uint64_t cache = reported > 0 ? static_cast<std::uint64_t>(reported) : std::uint64_t{32} << 20;
  std::uint64_t used = 0;
  for (const auto& bucket : spec.buckets) used = std::max(used, bucket.ring_offset + bucket.bytes);
  return used > cache / spec.rings.size();
}

}  // namespace

PreparedPipeline PreparePipeline(PipelineSpec spec) {
  CheckMembers(spec);
  CheckBuckets(spec);
  CheckCopies(spec);
  SortCopies(spec);

  PreparedPipeline prepared;
  prepared.buckets.resize(spec.buckets.size());
  std::vector<std::uint64_t> produced(spec.rings.size(), 0);
  // own_up_to[b]: index of the last own bucket among 0 … b - 1, plus one; 0 if there is none.
  std::vector<std::uint64_t> own_up_to(spec.buckets.size() + 1, 0);
  for (std::size_t b = 0; b < spec.buckets.size(); ++b) {
    const auto& bucket = spec.buckets[b];
    auto& out = prepared.buckets[b];
    out.produced_before = produced[bucket.owner];
    produced[bucket.owner] += bucket.bytes;
    out.released_before = spec.serial ? b : static_cast<std::uint64_t>(bucket.after + 1);
    // Peers read only this member's own buckets from its ring, so only those delay it.
    out.received_before = own_up_to[out.released_before];
    const bool own = bucket.owner == spec.position;
    own_up_to[b + 1] = own ? b + 1 : own_up_to[b];
    (own ? prepared.own : prepared.foreign).push_back(static_cast<std::uint32_t>(b));
  }
  prepared.non_temporal =
      spec.stores == RingStores::kNonTemporal || (spec.stores == RingStores::kByRingSize && ExceedCache(spec));
  prepared.spec = std::move(spec);
  return prepared;
}

}  // namespace ckpt::host
