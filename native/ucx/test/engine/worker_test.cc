#include "worker.h"

#include <cstring>
#include <vector>

#include "code_of.h"
#include "doctest/doctest.h"

namespace {

using namespace ckpt;
using namespace ckpt::ucx;

constexpr std::int64_t kTimeoutNs = 20'000'000'000;
constexpr const char* kTransports = "tcp,cma";

struct Ended {
  std::exception_ptr error;
  std::uint64_t bytes = 0;
};

Ended Run(const std::shared_ptr<Loop>& loop, Batch batch, bool cancel = false) {
  std::promise<Ended> ended;
  const auto transfer = std::make_shared<Transfer>(
      std::move(batch), nullptr,
      [&](std::exception_ptr error, std::uint64_t bytes) { ended.set_value({std::move(error), bytes}); });
  loop->Post([&](Loop& on) {
    on.Start(transfer);
    if (cancel) Loop::Cancel(*transfer);
  });
  return ended.get_future().get();
}

std::string CodeOfError(const std::exception_ptr& error) {
  return CodeOf([&] {
    if (error != nullptr) std::rethrow_exception(error);
  });
}

Remote At(const Region& region) { return {reinterpret_cast<std::uint64_t>(region.address()), region.bytes(), region.key()}; }

bool Missing() {
  if (Ucx::Get().problem().empty()) return false;
  REQUIRE(CodeOf([] { Worker worker("self"); }) == "ADDON_UNAVAILABLE");
  MESSAGE("skipped: " << Ucx::Get().problem());
  return true;
}

std::vector<std::uint8_t> Numbered(std::size_t bytes, int seed) {
  std::vector<std::uint8_t> result(bytes);
  for (std::size_t i = 0; i < bytes; i++)
    result[i] = static_cast<std::uint8_t>((i * 2654435761u + static_cast<unsigned>(seed)) >> 7);
  return result;
}

}  // namespace

TEST_CASE("UCX reads and writes what the batch says, and nothing else") {
  if (Missing()) return;
  Worker owner(kTransports), reader(kTransports);
  auto theirs = Numbered(3 << 20, 1), ours = std::vector<std::uint8_t>(3 << 20, 0xee);
  {
    const auto region = Register(owner.loop(), theirs.data(), theirs.size());
    const auto local = Register(reader.loop(), ours.data(), ours.size());
    const Connection connection(reader.loop(), owner.loop()->address(), kTimeoutNs);
    REQUIRE(connection.alive());
    REQUIRE(connection.description().find("lane") != std::string::npos);
    Batch batch;
    batch.link = connection.link();
    batch.remotes = {At(*region)};
    batch.locals = {local};
    batch.copies = {{0, 5, 0, 100, 1000000}, {0, 2000000, 0, 1500000, 77}};
    batch.piece_bytes = 65536;
    batch.depth = 4;
    batch.timeout_ns = kTimeoutNs;
    const Ended read = Run(reader.loop(), batch);
    REQUIRE((read.error == nullptr && read.bytes == 1000077));
    std::vector<std::uint8_t> expected(ours.size(), 0xee);
    std::memcpy(expected.data() + 100, theirs.data() + 5, 1000000);
    std::memcpy(expected.data() + 1500000, theirs.data() + 2000000, 77);
    REQUIRE(ours == expected);

    batch.direction = Direction::kWrite;
    batch.copies = {{0, 1, 0, 1500000, 77}};
    auto written = theirs;
    std::memcpy(written.data() + 1, ours.data() + 1500000, 77);
    REQUIRE(Run(reader.loop(), batch).error == nullptr);
    REQUIRE(theirs == written);

    REQUIRE(CodeOfError(Run(reader.loop(), batch, true).error) == "ABORTED");
    batch.copies = {{0, 3 << 20, 0, 0, 1}};
    REQUIRE(CodeOf([&] { Transfer(batch, nullptr, nullptr); }) == "INVALID_ARGUMENT");
    batch.copies = {{0, 0, 1, 0, 1}};
    REQUIRE(CodeOf([&] { Transfer(batch, nullptr, nullptr); }) == "INVALID_ARGUMENT");
  }
  // What was registered is released while both run.
  auto region = Register(owner.loop(), theirs.data(), theirs.size());
  const auto gone = region->gone();
  region = nullptr;
  gone.wait();
}

TEST_CASE("UCX ends batches with their connection and their worker") {
  if (Missing()) return;
  Worker owner(kTransports);
  auto reader = std::make_unique<Worker>(kTransports);
  auto theirs = Numbered(4096, 3), ours = Numbered(4096, 4);
  const auto region = Register(owner.loop(), theirs.data(), theirs.size());
  auto local = Register(reader->loop(), ours.data(), ours.size());
  const auto loop = reader->loop();
  Connection connection(loop, owner.loop()->address(), kTimeoutNs);
  Batch batch;
  batch.link = connection.link();
  batch.remotes = {At(*region)};
  batch.locals = {local};
  batch.copies = {{0, 0, 0, 0, 4096}};
  batch.timeout_ns = kTimeoutNs;
  connection.Close();
  REQUIRE(CodeOfError(Run(loop, batch).error) != "");
  REQUIRE(!connection.alive());
  const auto gone = local->gone();
  batch.locals.clear();
  local = nullptr;
  reader = nullptr;
  gone.wait();
  REQUIRE(CodeOf([&] { Register(loop, ours.data(), ours.size()); }) == "ABORTED");
}
