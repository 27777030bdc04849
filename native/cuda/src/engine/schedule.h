#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ckpt/pipeline.h"

namespace ckpt::cuda {

/// Order in time of copies to the GPU and broadcasts.
enum class Order : std::uint8_t {
  /// The broadcast of one chunk runs at the same time as the copies of the next ones.
  kOverlapped = 0,
  /// All copies of a round, then all its broadcasts, then the next round: for links that carry both.
  kAlternating = 1,
};

/// What one member runs, as flat data: the native form of PipelineJob. Owners are given by position.
struct Job : PipelinePlan {
  /// Number of members.
  std::uint32_t size = 1;
  std::uint64_t ring_bytes = 0;
  Order order = Order::kOverlapped;

  struct Source {
    const std::byte* data;
    std::uint64_t bytes;
    /// No copy crosses a multiple of this from `data`; 0 for no such limit.
    std::uint64_t slice_bytes;
  };
  std::vector<Source> sources;
};

/// A piece of a bucket: the unit in which the stages overlap.
struct Chunk {
  std::uint32_t bucket;
  std::uint32_t owner;
  /// Offset in the ring.
  std::uint64_t offset;
  std::uint64_t bytes;
  /// Last chunk of its bucket.
  bool last;
  /// The bucket that has to be released before this member may write the chunk; -1 for none.
  std::int32_t after;
  std::uint32_t round;
};

/// Chunks of different owners that are broadcast together, so that all owners' links are busy at the same time.
struct Step {
  std::uint32_t first_chunk;
  std::uint32_t chunk_count;
  /// The bucket that has to be released before this member may take part; -1 for none.
  std::int32_t after;
  std::uint32_t round;
};

/// At most one bucket of each owner; the unit of the alternating order.
struct Round {
  /// Index of its first step.
  std::uint32_t first_step;
  /// Number of own chunks in all earlier rounds.
  std::uint32_t first_own;
};

/// One host-to-device copy.
struct Piece {
  std::uint64_t offset;
  const std::byte* from;
  std::uint64_t bytes;
};

/// The beginning of a job: as many whole buckets, and part of the last ones, as give an owner `bytes` bytes. Every member gets
/// the same part. The job must have passed a Schedule.
Job Beginning(const Job& job, std::uint64_t bytes);

/// The order of every member's work. It depends only on the buckets, so that all members agree on it.
class Schedule {
 public:
  /// Takes a job and checks it: ranges are inside ring and sources, copies cover each owned bucket at most once, and the order
  /// cannot block itself. @throws Error INVALID_ARGUMENT naming the field.
  explicit Schedule(Job job);

  const Job& job() const { return job_; }
  const std::vector<Chunk>& chunks() const { return chunks_; }
  const std::vector<Step>& steps() const { return steps_; }
  /// Indices of the chunks that this member owns, in the order in which it copies them.
  const std::vector<std::uint32_t>& own() const { return own_; }
  /// One extra entry at the end contains the totals.
  const std::vector<Round>& rounds() const { return rounds_; }
  /// Copies that fill a chunk of an owned bucket, by ring offset.
  std::vector<Piece> PiecesOf(const Chunk& chunk) const;

 private:
  void Validate() const;
  void SortCopies();
  void BuildSteps();

  Job job_;
  std::vector<Chunk> chunks_;
  std::vector<Step> steps_;
  std::vector<std::uint32_t> own_;
  std::vector<Round> rounds_;
};

}  // namespace ckpt::cuda
