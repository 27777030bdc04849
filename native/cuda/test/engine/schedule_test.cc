// The schedule needs no GPU: every member must get the same steps, every byte must be copied once and from the right place, and
// a simulation of members that release late must never block.
#include "schedule.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "ckpt/error.h"

namespace {

using ckpt::cuda::Chunk;
using ckpt::cuda::Job;
using ckpt::cuda::Piece;
using ckpt::cuda::Schedule;
using ckpt::cuda::Step;

struct Plan {
  std::vector<std::byte> memory;
  Job job;
};

Plan MakePlan(unsigned seed, std::uint32_t size, std::uint32_t position, bool serial) {
  std::mt19937 random(seed);
  const auto pick = [&](std::uint64_t low, std::uint64_t high) { return low + random() % (high - low + 1); };
  Plan plan;
  Job& job = plan.job;
  job.position = position;
  job.size = size;
  job.serial = serial;
  job.timeout_ms = 1000;
  job.ring_bytes = 1 << 20;
  job.chunk_bytes = pick(1, 6) * 4096;
  plan.memory.resize(4 << 20);
  const std::uint64_t slice = pick(1, 8) * 65536;
  job.sources = {{plan.memory.data(), 3 << 20, slice}, {plan.memory.data() + (3 << 20), 1 << 20, 0}};
  std::uint64_t cursor = 0;
  const auto count = pick(1, 40);
  job.first_copy.push_back(0);
  for (std::uint32_t b = 0; b < count; b++) {
    const std::uint64_t bytes = pick(0, 9) == 0 ? 0 : pick(1, 300000);
    if (cursor + bytes > job.ring_bytes) cursor = 0;
    std::int32_t after = -1;
    for (std::uint32_t e = 0; e < b; e++) {
      const ckpt::PipelineBucket& earlier = job.buckets[e];
      if (earlier.ring_offset < cursor + bytes && cursor < earlier.ring_offset + earlier.bytes) after = static_cast<int>(e);
    }
    const auto owner = static_cast<std::uint32_t>(pick(0, size - 1));
    job.buckets.push_back({owner, bytes, cursor, after});
    std::vector<ckpt::PipelineCopy> copies;
    for (std::uint64_t at = 0; at < bytes;) {
      const std::uint64_t length = std::min(bytes - at, pick(1, 90000));
      const auto source = static_cast<std::uint32_t>(pick(0, 1));
      copies.push_back({source, pick(0, job.sources[source].bytes - length), at, length});
      at += length;
    }
    std::shuffle(copies.begin(), copies.end(), random);
    if (owner == position) job.copies.insert(job.copies.end(), copies.begin(), copies.end());
    job.first_copy.push_back(static_cast<std::uint32_t>(job.copies.size()));
    cursor += bytes;
  }
  return plan;
}

void CheckCoverage(const Schedule& schedule) {
  const Job& job = schedule.job();
  std::vector<std::uint64_t> covered(job.buckets.size(), 0);
  std::size_t own = 0;
  for (const Chunk& chunk : schedule.chunks()) {
    const ckpt::PipelineBucket& bucket = job.buckets[chunk.bucket];
    REQUIRE_MESSAGE(chunk.offset == bucket.ring_offset + covered[chunk.bucket], "chunks follow each other");
    covered[chunk.bucket] += chunk.bytes;
    REQUIRE_MESSAGE(chunk.last == (covered[chunk.bucket] == bucket.bytes), "the last chunk ends its bucket");
    if (chunk.owner != job.position) continue;
    REQUIRE_MESSAGE(&schedule.chunks()[schedule.own()[own++]] == &chunk, "own chunks come in the order of the steps");
    std::uint64_t at = chunk.offset;
    for (const Piece& piece : schedule.PiecesOf(chunk)) {
      REQUIRE_MESSAGE(piece.offset == at, "pieces follow each other");
      at += piece.bytes;
      bool found = false;
      for (std::uint32_t c = job.first_copy[chunk.bucket]; c < job.first_copy[chunk.bucket + 1]; c++) {
        const ckpt::PipelineCopy& copy = job.copies[c];
        const Job::Source& source = job.sources[copy.source];
        const std::uint64_t start = bucket.ring_offset + copy.bucket_offset;
        if (piece.offset < start || piece.offset + 1 > start + copy.bytes) continue;
        const std::uint64_t from = copy.source_offset + (piece.offset - start);
        REQUIRE_MESSAGE(piece.from == source.data + from, "a piece comes from where its copy says");
        if (source.slice_bytes != 0) {
          REQUIRE_MESSAGE(from / source.slice_bytes == (from + piece.bytes - 1) / source.slice_bytes,
                          "a piece stays in its slice");
        }
        found = true;
      }
      REQUIRE_MESSAGE(found, "a piece belongs to a copy");
    }
    REQUIRE_MESSAGE(at == chunk.offset + chunk.bytes, "pieces fill their chunk");
  }
  for (std::size_t b = 0; b < covered.size(); b++)
    REQUIRE_MESSAGE(covered[b] == job.buckets[b].bytes, "chunks cover their bucket");
}

/// Members that take part in a step only once their worker released what it waits for; workers release one delivered bucket now
/// and then. Every step needs all members.
void CheckProgress(const Schedule& schedule, unsigned seed) {
  std::mt19937 random(seed);
  const std::size_t size = schedule.job().size;
  const auto count = static_cast<std::int64_t>(schedule.job().buckets.size());
  std::vector<std::int64_t> released(size, -1);
  std::vector<std::size_t> entered(size, 0);
  std::vector<char> complete(static_cast<std::size_t>(count), 0);
  std::int64_t delivered = 0;
  std::size_t over = 0;
  while (*std::min_element(released.begin(), released.end()) + 1 < count) {
    bool moved = false;
    for (std::size_t m = 0; m < size; m++) {
      while (entered[m] < schedule.steps().size() && schedule.steps()[entered[m]].after <= released[m]) {
        entered[m]++;
        moved = true;
      }
    }
    const std::size_t all = *std::min_element(entered.begin(), entered.end());
    for (; over < all; over++) {
      const Step& step = schedule.steps()[over];
      for (std::uint32_t i = 0; i < step.chunk_count; i++) {
        const Chunk& chunk = schedule.chunks()[step.first_chunk + i];
        if (chunk.last) complete[chunk.bucket] = 1;
      }
      moved = true;
    }
    while (delivered < count && complete[static_cast<std::size_t>(delivered)]) delivered++;
    const std::size_t lucky = random() % size;
    for (std::size_t m = 0; m < size; m++) {
      if (released[m] + 1 < delivered && (m == lucky || !moved)) {
        released[m]++;
        moved = true;
      }
    }
    REQUIRE_MESSAGE(moved, "members never wait for each other for ever");
  }
}

/// Rounds are what the alternating order alternates by; the beginning of a job is a job of its own that all members agree on.
void CheckRounds(const Schedule& schedule) {
  const auto& rounds = schedule.rounds();
  REQUIRE_MESSAGE((rounds.front().first_step == 0 && rounds.front().first_own == 0), "the first round begins at the beginning");
  REQUIRE_MESSAGE(rounds.back().first_step == schedule.steps().size(), "the rounds cover all steps");
  REQUIRE_MESSAGE(rounds.back().first_own == schedule.own().size(), "the rounds cover all own chunks");
  for (std::size_t s = 0; s < schedule.steps().size(); s++) {
    const Step& step = schedule.steps()[s];
    REQUIRE_MESSAGE((s >= rounds[step.round].first_step && s < rounds[step.round + 1].first_step), "a step lies in its round");
    for (std::uint32_t i = 0; i < step.chunk_count; i++) {
      REQUIRE_MESSAGE(schedule.chunks()[step.first_chunk + i].round == step.round, "a chunk lies in its step's round");
    }
  }
  for (std::size_t c = 0; c < schedule.own().size(); c++) {
    const std::uint32_t round = schedule.chunks()[schedule.own()[c]].round;
    REQUIRE_MESSAGE((c >= rounds[round].first_own && c < rounds[round + 1].first_own), "an own chunk lies in its round");
  }
}

void CheckBeginning(const Job& job, unsigned seed) {
  const std::uint64_t limit = 1 + seed * 4099;
  const Schedule part(ckpt::cuda::Beginning(Schedule(job).job(), limit));
  CheckCoverage(part);
  CheckProgress(part, seed);
  std::vector<std::uint64_t> given(job.size, 0);
  for (std::size_t b = 0; b < part.job().buckets.size(); b++) {
    const ckpt::PipelineBucket& bucket = part.job().buckets[b];
    REQUIRE_MESSAGE((bucket.owner == job.buckets[b].owner && bucket.ring_offset == job.buckets[b].ring_offset),
                    "the same buckets");
    given[bucket.owner] += bucket.bytes;
  }
  const bool whole = part.job().buckets.size() == job.buckets.size();
  const std::uint64_t most = *std::max_element(given.begin(), given.end());
  REQUIRE_MESSAGE((most <= limit && (whole || most == limit)), "no owner gives more than was asked for, and one as much");
}

template <class Change>
void RequireRejected(const char* field, Change change) {
  Plan plan = MakePlan(7, 2, 0, false);
  change(plan.job);
  try {
    Schedule schedule(plan.job);
  } catch (const ckpt::Error& error) {
    REQUIRE_MESSAGE((error.code() == ckpt::code::kInvalidArgument && error.field() == field), "rejected for " << field);
    return;
  }
  REQUIRE_MESSAGE(false, "a wrong " << field << " is rejected");
}

}  // namespace

TEST_CASE("schedule: members agree, cover every byte and never block on 400 random plans") {
  for (unsigned seed = 0; seed < 400; seed++) {
    const std::uint32_t size = 1 + seed % 4;
    const bool serial = seed % 5 == 0;
    const Plan plan = MakePlan(seed, size, 0, serial);
    const Schedule first(plan.job);
    CheckCoverage(first);
    CheckProgress(first, seed);
    CheckRounds(first);
    CheckBeginning(plan.job, seed);
    for (std::uint32_t position = 1; position < size; position++) {
      Job other = plan.job;
      other.position = position;
      other.copies.clear();
      std::fill(other.first_copy.begin(), other.first_copy.end(), 0);
      const Schedule theirs(other);
      CheckRounds(theirs);
      REQUIRE_MESSAGE(theirs.steps().size() == first.steps().size(), "members agree on the steps");
      for (std::size_t s = 0; s < first.steps().size(); s++) {
        REQUIRE_MESSAGE((theirs.steps()[s].first_chunk == first.steps()[s].first_chunk &&
                         theirs.steps()[s].after == first.steps()[s].after),
                        "members agree on each step");
      }
    }
  }
}

TEST_CASE("schedule: a wrong job is rejected, naming the field") {
  RequireRejected("chunkBytes", [](Job& job) { job.chunk_bytes = 0; });
  RequireRejected("position", [](Job& job) { job.position = 2; });
  RequireRejected("buckets.owner", [](Job& job) { job.buckets[0].owner = 2; });
  RequireRejected("buckets.ringOffset", [](Job& job) { job.buckets[0].ring_offset = job.ring_bytes + 1; });
  RequireRejected("buckets.after", [](Job& job) { job.buckets[0].after = 0; });
  RequireRejected("copies.firstCopy", [](Job& job) { job.first_copy.back()++; });
  RequireRejected("copies.segment", [](Job& job) { job.copies[0].source = 2; });
  RequireRejected("copies.segmentOffset", [](Job& job) { job.copies[0].source_offset = std::uint64_t{1} << 40; });
}
