// The engine without Node, for sanitizer runs: every part under several threads, errors and cancellations in the middle.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/worker_pool.h"
#include "code_of.h"
#include "copy.h"
#include "digest.h"
#include "foreign.h"
#include "mapping.h"
#include "mix.h"
#include "reader.h"

using ckpt::Cancellation;
using ckpt::ParallelFor;
using ckpt::WorkerPool;
using namespace ckpt;
using namespace ckpt::host;

namespace {

constexpr std::size_t kBytes = (std::size_t{3} << 20) + 13;

/// The digest's definition, one byte at a time.
std::uint64_t Reference(const std::byte* data, std::size_t bytes) {
  std::uint64_t sum = Mix(bytes ^ kLengthSalt);
  for (std::size_t start = 0, i = 1; start < bytes; start += 8, i++) {
    std::uint64_t word = 0;
    for (std::size_t k = 0; k < 8 && start + k < bytes; k++) word |= std::to_integer<std::uint64_t>(data[start + k]) << (8 * k);
    sum += Mix(word + i * kGolden);
  }
  return sum;
}

void TestParallelFor(WorkerPool& pool) {
  const Cancellation never;
  for (int round = 0; round < 200; round++) {
    std::vector<int> counts(97);
    ParallelFor::Run(pool, 4, counts.size(), never, [&](std::size_t i) { counts[i]++; });
    for (const int count : counts) REQUIRE(count == 1);
  }
  // So many that no thread gets through them while another is on its way to say that it failed.
  constexpr std::size_t kEndless = std::size_t{1} << 40;
  REQUIRE(CodeOf([&] {
            ParallelFor::Run(pool, 4, kEndless, never, [](std::size_t i) {
              if (i == 50) throw ckpt::Error(ckpt::code::kTimeout, "fifty");
            });
          }) == "TIMEOUT");
  Cancellation cancellation;
  REQUIRE(CodeOf([&] {
            ParallelFor::Run(pool, 4, kEndless, cancellation, [&](std::size_t i) {
              if (i == 50) cancellation.Cancel();
            });
          }) == "ABORTED");
}

void TestStop() {
  // A pool that stops while callers on its own threads share work: nobody hangs, nothing is touched afterwards.
  for (int round = 0; round < 50; round++) {
    Cancellation cancellation;
    std::atomic<int> running{0};
    WorkerPool pool("stopping");
    for (int i = 0; i < 3; i++) {
      pool.Post([&] {
        running++;
        CodeOf([&] { ParallelFor::Run(pool, 3, 1u << 20, cancellation, [](std::size_t) { std::this_thread::yield(); }); });
      });
    }
    while (running == 0) std::this_thread::yield();
    cancellation.Cancel();
    pool.Stop();
    REQUIRE(!pool.Post([] {}));
  }
}

void TestMemoryAndDigest(WorkerPool& pool) {
  const Cancellation never;
  auto memory = Mapping::Anonymous(kBytes);
  memory->Populate(pool, 3, never);
  memory->Lock();
  REQUIRE(memory->locked() == memory->lock_error().empty());
  FillRandom(pool, 3, *memory, 1, kBytes - 1, 42, never);
  std::vector<MemoryRange> ranges;
  for (std::size_t bytes = 0; bytes < 40; bytes++) ranges.push_back({0, bytes % 9, bytes});
  ranges.push_back({0, 0, kBytes});
  ranges.push_back({0, 5, kBytes - 5});
  const auto digests = DigestRanges(pool, 3, {memory}, ranges, never);
  for (std::size_t i = 0; i < ranges.size(); i++) {
    REQUIRE(digests[i] == Reference(memory->data() + ranges[i].offset, ranges[i].bytes));
    REQUIRE(digests[i] == DigestBytes(memory->data() + ranges[i].offset, ranges[i].bytes));
  }
  REQUIRE(CodeOf([&] { DigestRanges(pool, 3, {memory}, {{0, 1, kBytes}}, never); }) == "INVALID_ARGUMENT");
}

void TestCopies(WorkerPool& pool) {
  const Cancellation never;
  auto source = Mapping::Anonymous(kBytes);
  auto destination = Mapping::Anonymous(kBytes);
  FillRandom(pool, 3, *source, 0, kBytes, 1, never);
  // Odd sizes on both sides of the non-temporal threshold, at the very end of both memories.
  for (const std::size_t bytes : {0, 1, 63, 8191, 8192, 8193, 1000003}) {
    CopyBytes(destination->data() + kBytes - bytes, source->data() + kBytes - bytes, bytes);
    REQUIRE(std::memcmp(destination->data() + kBytes - bytes, source->data() + kBytes - bytes, bytes) == 0);
  }
  const std::vector<StridedCopy> copies = {{0, 3, 2000, 1, 0, 1500, 1501 - 1, 1000}, {0, 0, 0, 1, 1600000, 300, 299, 4000}};
  REQUIRE(CopyStrided(pool, 4, {source, destination}, copies, never) == 1500 * 1000 + 299 * 4000);
  for (const StridedCopy& copy : copies) {
    for (std::uint64_t row = 0; row < copy.rows; row++) {
      REQUIRE(std::memcmp(destination->data() + copy.destination_offset + row * copy.destination_pitch,
                          source->data() + copy.source_offset + row * copy.source_pitch, copy.row_bytes) == 0);
    }
  }
  REQUIRE(CodeOf([&] { CopyStrided(pool, 4, {source}, {{0, kBytes, 0, 0, 0, 0, 1, 1}}, never); }) == "INVALID_ARGUMENT");
  REQUIRE(CodeOf([&] { CopyStrided(pool, 4, {source}, {{0, 0, ~0ull, 0, 0, 8, 8, 3}}, never); }) == "INVALID_ARGUMENT");
}

/// What this CPU would not choose has to be right as well.
void TestEveryInstructionSet(WorkerPool& pool) {
  const Cancellation never;
  auto memory = Mapping::Anonymous(kBytes);
  auto other = Mapping::Anonymous(kBytes);
  FillRandom(pool, 3, *memory, 0, kBytes, 77, never);
  for (const MixLoops& loops : SupportedMixLoops()) {
    for (const std::size_t words : {0, 1, 7, 8, 9, 63, 64, 65, 1001}) {
      std::uint64_t expected = Mix((words * 8) ^ kLengthSalt);
      REQUIRE(expected + loops.sum(memory->data() + 3, words, 1) == Reference(memory->data() + 3, words * 8));
      loops.write(other->data() + 5, words, 77, 1);
      REQUIRE(std::memcmp(other->data() + 5, memory->data(), words * 8) == 0);
    }
  }
  for (const CopyLoop& loop : SupportedCopyLoops()) {
    for (const std::size_t bytes : {0, 1, 8191, 8192, 8193, 20001, 1000003}) {
      for (const std::size_t shift : {0, 1, 63}) {
        std::memset(other->data(), 0, kBytes);
        loop.copy(other->data() + shift, memory->data() + 2 * shift, bytes);
        REQUIRE(std::memcmp(other->data() + shift, memory->data() + 2 * shift, bytes) == 0);
        REQUIRE((other->data()[bytes + shift] == std::byte{0} && (shift == 0 || other->data()[shift - 1] == std::byte{0})));
      }
    }
    for (const std::size_t bytes : {1, 64, 255, 256, 1024, 1088, 8192}) {
      for (const std::size_t shift : {0, 1, 64}) {
        const Rows rows{bytes, 37, 2 * bytes + 64, bytes + 64};
        std::memset(other->data(), 0, kBytes);
        loop.rows(other->data() + shift, memory->data() + shift, rows);
        for (std::size_t row = 0; row < rows.count; row++) {
          const auto* copied = other->data() + shift + row * rows.destination_pitch;
          REQUIRE(std::memcmp(copied, memory->data() + shift + row * rows.source_pitch, bytes) == 0);
          REQUIRE((copied[bytes] == std::byte{0} && copied[bytes + 63] == std::byte{0}));
        }
      }
    }
  }
}

void TestReader(WorkerPool& pool) {
  const Cancellation never;
  auto expected = Mapping::Anonymous(kBytes);
  FillRandom(pool, 3, *expected, 0, kBytes, 9, never);
  char path[] = "/tmp/ckpt-engine-test-XXXXXX";
  ::close(::mkstemp(path));
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(expected->data()), static_cast<std::streamsize>(kBytes));
  auto memory = Mapping::Anonymous(kBytes);
  std::atomic<std::uint64_t> seen{0};
  const std::vector<ContiguousCopy> reads = {{0, 0, 0, 0, 1000001}, {0, 1000001, 0, 1000001, kBytes - 1000001}};
  const auto [bytes, digests] = ReadFiles(
      pool, 4, {FileToRead{path, -1, std::nullopt}}, {memory}, reads, {}, [&](std::uint64_t count) { seen = count; }, never);
  REQUIRE((bytes == kBytes && seen <= kBytes && digests.empty()));
  REQUIRE(std::memcmp(memory->data(), expected->data(), kBytes) == 0);
  REQUIRE(CodeOf([&] {
            ReadFiles(pool, 4, {FileToRead{path, -1, std::nullopt}}, {memory}, {{0, 1, 0, 0, kBytes}}, {}, nullptr, never);
          }) == "CHECKPOINT_UNREADABLE");
  auto file = Mapping::File(path);
  REQUIRE(std::memcmp(file->data(), expected->data(), kBytes) == 0);
  ::unlink(path);
  REQUIRE(CodeOf([&] { Mapping::File(path); }) == "CHECKPOINT_UNREADABLE");
}

/// Digests that are made while files are read are those of what lies in memory afterwards, however reads and ranges are cut.
void TestDigestsWhileReading(WorkerPool& pool) {
  const Cancellation never;
  auto expected = Mapping::Anonymous(kBytes);
  FillRandom(pool, 3, *expected, 0, kBytes, 11, never);
  char path[] = "/tmp/ckpt-engine-test-XXXXXX";
  ::close(::mkstemp(path));
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(expected->data()), static_cast<std::streamsize>(kBytes));
  const std::vector<FileToRead> files = {{path, -1, std::nullopt}};
  std::mt19937_64 random(17);
  const auto cuts = [&random](std::uint64_t from, std::size_t count) {
    std::vector<std::uint64_t> all = {from, kBytes};
    for (std::size_t i = 0; i < count; i++) all.push_back(from + random() % (kBytes - from));
    // Some are nearer than a word.
    for (std::size_t i = 0; i < count; i++) all.push_back(std::min<std::uint64_t>(all[2 + i] + random() % 9, kBytes));
    std::sort(all.begin(), all.end());
    return all;
  };
  for (int trial = 0; trial < 40; trial++) {
    auto memory = Mapping::Anonymous(kBytes);
    std::vector<ContiguousCopy> reads;
    const auto read_at = cuts(0, 1 + random() % 20);
    for (std::size_t i = 1; i < read_at.size(); i++) {
      reads.push_back({0, read_at[i - 1], 0, read_at[i - 1], read_at[i] - read_at[i - 1]});
    }
    std::vector<MemoryRange> ranges;
    const auto range_at = cuts(random() % 20, 1 + random() % 200);
    for (std::size_t i = 1; i < range_at.size(); i++) {
      if (random() % 8 != 0) ranges.push_back({0, range_at[i - 1], range_at[i] - range_at[i - 1]});
    }
    std::shuffle(reads.begin(), reads.end(), random);
    std::shuffle(ranges.begin(), ranges.end(), random);
    const auto digests = ReadFiles(pool, 4, files, {memory}, reads, ranges, nullptr, never).digests;
    REQUIRE(digests == DigestRanges(pool, 2, {expected}, ranges, never));
    // A range that is not filled whole, or that overlaps, has no digest.
    const std::uint64_t missing = reads.back().bytes;
    const std::uint64_t begin = reads.back().destination_offset;
    if (missing == 0) continue;
    const std::vector<ContiguousCopy> fewer(reads.begin(), reads.end() - 1);
    const auto code = [&](const std::vector<MemoryRange>& wanted) {
      return CodeOf([&] { ReadFiles(pool, 4, files, {memory}, fewer, wanted, nullptr, never); });
    };
    REQUIRE(code({{0, begin, missing}}) == "INVALID_ARGUMENT");
    REQUIRE(code({{0, 0, 10}, {0, 9, 1}}) == "INVALID_ARGUMENT");
  }
  ::unlink(path);
}

/// Files that were opened before are read from their descriptors; others must be what they were, however many there are.
void TestReaderOfOpenedFiles(WorkerPool& pool) {
  const Cancellation never;
  char folder[] = "/tmp/ckpt-engine-test-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  constexpr std::size_t kFiles = 20;
  std::vector<FileToRead> files;
  std::vector<ContiguousCopy> reads;
  auto memory = Mapping::Anonymous(kFiles);
  for (std::size_t i = 0; i < kFiles; i++) {
    const std::string path = std::string(folder) + "/" + std::to_string(i);
    std::ofstream(path, std::ios::binary).put(static_cast<char>('a' + i));
    struct stat status{};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    files.push_back({path, -1, FileIdentity::Of(status)});
    reads.push_back({i, 0, 0, i, 1});
  }
  REQUIRE(ReadFiles(pool, 3, files, {memory}, reads, {}, nullptr, never).bytes == kFiles);
  for (std::size_t i = 0; i < kFiles; i++) REQUIRE(memory->data()[i] == static_cast<std::byte>('a' + i));
  // One of those that stay open, and one of those that do not.
  for (const std::size_t victim : {std::size_t{0}, kFiles - 1}) {
    const ckpt::ScopedFd opened(::open(files[victim].path.c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(::unlink(files[victim].path.c_str()) == 0);
    std::ofstream(files[victim].path, std::ios::binary).put('!');
    REQUIRE(CodeOf([&] { ReadFiles(pool, 3, files, {memory}, reads, {}, nullptr, never); }) == "CHECKPOINT_CHANGED");
    files[victim].descriptor = opened.get();
    REQUIRE(ReadFiles(pool, 3, files, {memory}, reads, {}, nullptr, never).bytes == kFiles);
    REQUIRE(memory->data()[victim] == static_cast<std::byte>('a' + victim));
    files[victim].descriptor = -1;
    struct stat status{};
    REQUIRE(::stat(files[victim].path.c_str(), &status) == 0);
    files[victim].identity = FileIdentity::Of(status);
  }
  for (const auto& file : files) ::unlink(file.path.c_str());
  ::rmdir(folder);
}

/// By openat2 and step by step: files beneath the directory, and no others.
void TestOpenBeneath() {
  char folder[] = "/tmp/ckpt-engine-test-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  const std::string root = std::string(folder) + "/root";
  const std::string inner = root + "/inner";
  REQUIRE((::mkdir(root.c_str(), 0700) == 0 && ::mkdir(inner.c_str(), 0700) == 0));
  std::ofstream(inner + "/file") << "inside";
  std::ofstream(std::string(folder) + "/outside") << "outside";
  REQUIRE((::symlink("inner", (root + "/link").c_str()) == 0 && ::symlink("file", (inner + "/link").c_str()) == 0));
  REQUIRE((::symlink("../..", (inner + "/up").c_str()) == 0 && ::mkfifo((inner + "/pipe").c_str(), 0600) == 0));
  const ckpt::ScopedFd directory(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  for (const bool steps : {false, true}) {
    const ckpt::ScopedFd fd = OpenBeneath(directory.get(), "inner/file", steps);
    char bytes[8] = "";
    REQUIRE((::read(fd.get(), bytes, sizeof bytes) == 6 && std::string(bytes, 6) == "inside"));
    for (const std::string path : {"link/file", "inner/link", "inner/up/outside", "../outside", "inner/../../outside", "", "/",
                                   ".", "inner//file", "inner/", "./inner/file"}) {
      REQUIRE(CodeOf([&] { OpenBeneath(directory.get(), path, steps); }) == "INVALID_ARGUMENT");
    }
    for (const std::string path : {"inner/pipe", "inner", "none", "none/file", "inner/file/x"}) {
      REQUIRE(CodeOf([&] { OpenBeneath(directory.get(), path, steps); }) == "CHECKPOINT_UNREADABLE");
    }
  }
  for (const char* name : {"/inner/file", "/inner/link", "/inner/up", "/inner/pipe", "/link"}) ::unlink((root + name).c_str());
  ::unlink((std::string(folder) + "/outside").c_str());
  ::rmdir(inner.c_str());
  ::rmdir(root.c_str());
  ::rmdir(folder);
}

/// Pages of the range that are in this process's page table.
std::size_t PagesPresent(const Mapping& memory, std::size_t offset, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t first = (reinterpret_cast<std::uintptr_t>(memory.data()) + offset) / page;
  const std::size_t last = (reinterpret_cast<std::uintptr_t>(memory.data()) + offset + bytes - 1) / page;
  std::vector<std::uint64_t> entries(last - first + 1);
  const int map = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const std::size_t length = entries.size() * sizeof entries[0];
  REQUIRE(::pread(map, entries.data(), length, static_cast<off_t>(first * sizeof entries[0])) == static_cast<ssize_t>(length));
  ::close(map);
  return static_cast<std::size_t>(std::count_if(entries.begin(), entries.end(), [](auto entry) { return entry >> 63 != 0; }));
}

void TestShared(WorkerPool& pool) {
  const Cancellation never;
  const std::string name = "ckpt-engine-test-" + std::to_string(::getpid());
  auto memory = Mapping::CreateShared(name, kBytes);
  REQUIRE(CodeOf([&] { Mapping::CreateShared(name, kBytes); }) == "INVALID_ARGUMENT");
  memory->Reserve(never);
  memory->Populate(pool, 3, never);
  auto other = OpenShared(name, true);
  const std::size_t before = PagesPresent(*other, 5000, kBytes - 10000);
  other->PopulateRead(5000, kBytes - 10000, pool, 3, never);
  const std::size_t after = PagesPresent(*other, 5000, kBytes - 10000);
  REQUIRE((before == 0 && after > kBytes / 4096 - 4));
  REQUIRE(CodeOf([&] { other->PopulateRead(1, kBytes, pool, 3, never); }) == "INVALID_ARGUMENT");
  memory->Unlink();
  memory->Unlink();
  std::memset(memory->data(), 7, kBytes);
  REQUIRE((other->size() == kBytes && other->data()[kBytes - 1] == std::byte{7}));
  REQUIRE(CodeOf([&] { OpenShared(name, true); }) == "INVALID_ARGUMENT");
}

void TestSeveralCallers(WorkerPool& pool) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; i++) {
    callers.emplace_back([&pool] {
      TestMemoryAndDigest(pool);
      TestCopies(pool);
    });
  }
  for (auto& caller : callers) caller.join();
}

}  // namespace

TEST_CASE("engine: parallel loops, their errors and cancellations") {
  WorkerPool pool("test");
  TestParallelFor(pool);
}
TEST_CASE("engine: anonymous memory and digests") {
  WorkerPool pool("test");
  TestMemoryAndDigest(pool);
}
TEST_CASE("engine: strided copies") {
  WorkerPool pool("test");
  TestCopies(pool);
}
TEST_CASE("engine: every instruction set") {
  WorkerPool pool("test");
  TestEveryInstructionSet(pool);
}
TEST_CASE("engine: file reader") {
  WorkerPool pool("test");
  TestReader(pool);
}
TEST_CASE("engine: digests while reading") {
  WorkerPool pool("test");
  TestDigestsWhileReading(pool);
}
TEST_CASE("engine: a reader of files that are open") {
  WorkerPool pool("test");
  TestReaderOfOpenedFiles(pool);
}
TEST_CASE("engine: files beneath a directory") { TestOpenBeneath(); }
TEST_CASE("engine: shared memory") {
  WorkerPool pool("test");
  TestShared(pool);
}
TEST_CASE("engine: several callers of one pool") {
  WorkerPool pool("test");
  TestSeveralCallers(pool);
}
TEST_CASE("engine: a pool that stops in the middle of work") { TestStop(); }
