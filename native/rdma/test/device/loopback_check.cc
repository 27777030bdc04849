// The engine on a real (or soft) device, over its own loopback, from several threads: for sanitizer builds. Run it as
// loopback_check DEVICE GID-INDEX; it needs a device, so it is no part of the tests that run everywhere.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "code_of.h"
#include "completion_loop.h"
#include "context.h"
#include "queue_pair.h"
#include "region.h"
#include "transfer.h"

using namespace ckpt::rdma;

namespace {

constexpr std::size_t kBytes = std::size_t{4} << 20;

struct Ended {
  std::string code;
  std::uint64_t bytes = 0;
};

Ended Describe(const std::exception_ptr& error, std::uint64_t bytes) {
  if (!error) return {"", bytes};
  return {CodeOf([&] { std::rethrow_exception(error); }), bytes};
}

/// A device with memories and pairs of connected queue pairs between itself and itself.
struct Fixture {
  Fixture(const std::string& device, int gid_index, int pairs) {
    context = std::make_shared<Context>(device, 4096);
    loop = std::make_shared<CompletionLoop>(context);
    source.resize(kBytes);
    target.resize(kBytes);
    for (std::size_t i = 0; i < kBytes; i++) source[i] = static_cast<std::uint8_t>(i * 2654435761u >> 11);
    served = Region::Host(context, source.data(), kBytes, {false, true, false});
    local = Region::Host(context, target.data(), kBytes, {true, false, false});
    const QueuePairOptions options{1, gid_index, 16};
    const ConnectOptions connection{16, 3, 0, 0};
    for (int i = 0; i < pairs; i++) {
      auto client = std::make_shared<QueuePair>(context, loop, options);
      auto server = std::make_shared<QueuePair>(context, loop, options);
      client->Connect(server->local(), connection);
      server->Connect(client->local(), connection);
      clients.push_back(std::move(client));
      servers.push_back(std::move(server));
    }
  }

  std::shared_ptr<Transfer> Start(std::promise<Ended>& ended, std::uint32_t key_offset = 0) {
    Batch batch;
    for (const auto& pair : clients) batch.lanes.push_back({pair, {local}, {served->remote_key() + key_offset}});
    batch.remotes = {{served->address(), kBytes}};
    batch.copies = {{0, 0, 0, 0, kBytes}};
    batch.piece_bytes = 64 << 10;
    batch.timeout_ns = 20'000'000'000;
    const auto done = [&ended](std::exception_ptr error, std::uint64_t bytes) { ended.set_value(Describe(error, bytes)); };
    return Transfer::Start(std::move(batch), nullptr, done);
  }

  std::shared_ptr<Context> context;
  std::shared_ptr<CompletionLoop> loop;
  std::vector<std::uint8_t> source, target;
  std::shared_ptr<Region> served, local;
  std::vector<std::shared_ptr<QueuePair>> clients, servers;
};

void TestBatchesBesideEachOther(const std::string& device, int gid) {
  Fixture fixture(device, gid, 2);
  std::vector<std::thread> threads;
  std::atomic<int> cancelled{0};
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&fixture, &cancelled, t] {
      for (int round = 0; round < 4; round++) {
        std::promise<Ended> ended;
        const auto transfer = fixture.Start(ended);
        if (t == 0) transfer->Cancel();
        const Ended result = ended.get_future().get();
        if (t == 0 && result.code == "ABORTED")
          cancelled++;
        else
          CHECK(result.code.empty() && result.bytes == kBytes);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(cancelled > 0);
  CHECK(fixture.source == fixture.target);
}

void TestWrongKey(const std::string& device, int gid) {
  Fixture fixture(device, gid, 2);
  std::promise<Ended> ended;
  fixture.Start(ended, 99);
  CHECK(ended.get_future().get().code == "REGION_REFUSED");
}

/// The device is closed, and everything let go of, while batches are under way.
void TestClosing(const std::string& device, int gid) {
  for (int round = 0; round < 3; round++) {
    auto fixture = std::make_unique<Fixture>(device, gid, 2);
    std::vector<std::promise<Ended>> ended(3);
    for (auto& one : ended) fixture->Start(one);
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * round));
    fixture->loop->Stop();
    for (auto& one : ended) {
      const Ended result = one.get_future().get();
      CHECK(result.code.empty() || result.code == "ABORTED");
    }
    std::promise<Ended> late;
    fixture->Start(late);
    CHECK(late.get_future().get().code == "PEER_LOST");
  }
}

/// A queue pair is taken out of service under a batch: the other moves the rest.
void TestRetiring(const std::string& device, int gid) {
  Fixture fixture(device, gid, 2);
  std::promise<Ended> ended;
  fixture.Start(ended);
  fixture.loop->Retire(fixture.clients[0]);
  const Ended result = ended.get_future().get();
  CHECK(result.code.empty() && result.bytes == kBytes);
  CHECK(fixture.source == fixture.target);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: loopback_check DEVICE GID-INDEX\n");
    return 2;
  }
  const auto run = [&](const char* name, void (*body)(const std::string&, int)) {
    body(argv[1], std::atoi(argv[2]));
    std::printf("PASS %s\n", name);
  };
  run("batches beside each other, some cancelled", TestBatchesBesideEachOther);
  run("a wrong key", TestWrongKey);
  run("a queue pair that goes under a batch", TestRetiring);
  run("closing under batches", TestClosing);
}
