#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "pipeline_plan.h"

namespace ckpt::host::test {

/// A random plan that every process of a test makes again from the same numbers, with the bytes that go through it.
struct RandomPlan {
  struct Options {
    std::uint32_t members = 2;
    std::uint64_t ring_bytes = 1 << 16;
    std::uint64_t largest_bucket = 1 << 14;
    std::uint32_t buckets = 50;
    std::uint64_t seed = 1;
  };

  std::uint64_t seed = 0;
  std::vector<PipelineBucket> buckets;
  /// All members' copies; those of one bucket ascend.
  std::vector<std::vector<PipelineCopy>> copies;
  /// Bytes of each member's two sources.
  std::vector<std::vector<std::uint64_t>> source_bytes;

  explicit RandomPlan(const Options& options) : seed(options.seed), source_bytes(options.members, {0, 0}) {
    std::mt19937_64 random(options.seed);
    const auto below = [&](std::uint64_t limit) { return random() % limit; };
    std::uint64_t at = 0;
    for (std::uint32_t b = 0; b < options.buckets; ++b) {
      PipelineBucket bucket;
      bucket.owner = static_cast<std::uint32_t>(below(options.members));
      bucket.bytes = below(16) == 0 ? 0 : 1 + below(options.largest_bucket);
      if (at + bucket.bytes > options.ring_bytes) at = 0;
      bucket.ring_offset = at;
      at += bucket.bytes;
      for (std::uint32_t earlier = 0; earlier < b; ++earlier) {
        const auto& other = buckets[earlier];
        const bool overlap =
            other.ring_offset < bucket.ring_offset + bucket.bytes && bucket.ring_offset < other.ring_offset + other.bytes;
        if (overlap) bucket.after = static_cast<std::int32_t>(earlier);
      }
      std::vector<PipelineCopy> pieces;
      for (std::uint64_t offset = 0; offset < bucket.bytes;) {
        const auto bytes = std::min(bucket.bytes - offset, 1 + below(bucket.bytes));
        const bool gap = below(8) == 0;
        const auto source = static_cast<std::uint32_t>(below(2));
        auto& size = source_bytes[bucket.owner][source];
        if (!gap) {
          pieces.push_back({source, size, offset, bytes});
          size += bytes;
        }
        offset += bytes;
      }
      buckets.push_back(bucket);
      copies.push_back(pieces);
    }
  }

  /// The bytes that a piece of bucket `bucket` carries.
  std::vector<std::uint8_t> Bytes(std::size_t bucket, const PipelineCopy& piece) const {
    std::vector<std::uint8_t> bytes(piece.bytes);
    std::uint64_t state = seed * 0x9e3779b97f4a7c15ULL + bucket * 0xd6e8feb86659fd93ULL + piece.bucket_offset;
    for (std::uint64_t i = 0; i < piece.bytes; i += 8) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      const auto word = state ^ state >> 29;
      std::memcpy(bytes.data() + i, &word, std::min<std::uint64_t>(8, piece.bytes - i));
    }
    return bytes;
  }

  /// What member `position` copies from, filled.
  std::vector<std::vector<std::uint8_t>> Sources(std::uint32_t position) const {
    std::vector<std::vector<std::uint8_t>> sources;
    for (const auto bytes : source_bytes[position]) sources.emplace_back(bytes);
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].owner != position) continue;
      for (const auto& piece : copies[b]) {
        const auto bytes = Bytes(b, piece);
        std::memcpy(sources[piece.source].data() + piece.source_offset, bytes.data(), bytes.size());
      }
    }
    return sources;
  }

  /// Fills in the buckets, and the copies of member `position` in random order within each bucket.
  void Describe(std::uint32_t position, PipelineSpec& spec) const {
    std::mt19937_64 random(seed + position);
    spec.position = position;
    spec.buckets = buckets;
    spec.first_copy = {0};
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].owner == position) {
        auto pieces = copies[b];
        std::shuffle(pieces.begin(), pieces.end(), random);
        spec.copies.insert(spec.copies.end(), pieces.begin(), pieces.end());
      }
      spec.first_copy.push_back(static_cast<std::uint32_t>(spec.copies.size()));
    }
  }

  /// Empty when the ring holds bucket `bucket`'s bytes, else where it does not.
  std::string Check(std::size_t bucket, const std::byte* ring) const {
    for (const auto& piece : copies[bucket]) {
      const auto bytes = Bytes(bucket, piece);
      if (std::memcmp(ring + buckets[bucket].ring_offset + piece.bucket_offset, bytes.data(), bytes.size()) != 0) {
        return "bucket " + std::to_string(bucket) + " differs in the " + std::to_string(piece.bytes) + " bytes from " +
               std::to_string(piece.bucket_offset);
      }
    }
    return "";
  }
};

}  // namespace ckpt::host::test
