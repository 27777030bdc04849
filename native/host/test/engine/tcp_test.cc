// The TCP endpoint without Node: reads, refusals, hostile peers, and ends in the middle; for sanitizer runs.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/cancellation.h"
#include "code_of.h"
#include "tcp_peer.h"
#include "tcp_server.h"

using ckpt::Cancellation;
using namespace ckpt;
using namespace ckpt::host;
using namespace std::chrono_literals;

namespace {

const std::string kSecret = "a secret of this run, not a real one";
using Bytes = std::vector<std::byte>;

std::shared_ptr<Bytes> Random(std::size_t size, unsigned seed) {
  auto bytes = std::make_shared<Bytes>(size);
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < size; i += 8) {
    const auto word = random();
    std::memcpy(bytes->data() + i, &word, std::min<std::size_t>(8, size - i));
  }
  return bytes;
}

std::unique_ptr<TcpServer> Serve(const std::string& address = "127.0.0.1:0") {
  return std::make_unique<TcpServer>(TcpServerOptions{{ParseTcpAddress(address)}, kSecret});
}

TcpPeerOptions To(const TcpServer& server, unsigned streams = 3) {
  return {server.id(), server.addresses(), kSecret, streams, 5s};
}

RegionKey Open(TcpServer& server, const std::shared_ptr<Bytes>& bytes) {
  return server.regions().Add(bytes->data(), bytes->size(), bytes);
}

const Cancellation kNever;

void TestAddresses() {
  REQUIRE(AddressText(ParseTcpAddress("127.0.0.1:80")) == "127.0.0.1:80");
  REQUIRE(AddressText(ParseTcpAddress("[::1]:65535")) == "[::1]:65535");
  for (const char* text : {"", "host", ":80", "host:", "host:70000", "host:8x", "::1:80"}) {
    REQUIRE(CodeOf([&] { ParseTcpAddress(text); }) == "INVALID_ARGUMENT");
  }
}

/// Pacing costs timers, and within a machine there is nothing to pace for.
void TestCongestionWithinMachine() {
  for (const char* text : {"127.0.0.1:0", "127.8.9.1:0", "[::1]:0"}) {
    auto address = ParseTcpAddress(text);
    ckpt::ScopedFd listener;
    try {
      listener = ListenTcp(address);
    } catch (const ckpt::Error&) {
      // A machine without IPv6.
      REQUIRE(address.host == "::1");
      continue;
    }
    std::size_t chosen = 0;
    const auto near = ConnectTcp({address}, std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen);
    ConfigureStream(near.get());
    char name[16] = {};
    socklen_t length = sizeof name;
    REQUIRE((getsockopt(near.get(), IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 && std::string(name) == "reno"));
  }
}

void TestReads() {
  const auto server = Serve();
  const auto first = Random((std::size_t{5} << 20) + 11, 1);
  const auto second = Random(100'003, 2);
  const auto key = Open(*server, first);
  const auto other = Open(*server, second);
  TcpPeer peer(To(*server), kNever);
  // Several callers at once, each with large, small and empty reads from both regions.
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      std::mt19937_64 random(caller);
      for (int round = 0; round < 6; ++round) {
        std::vector<TcpRead> reads;
        std::vector<const std::byte*> expected;
        std::uint64_t total = 0;
        for (int i = 0; i < 150; ++i) {
          const auto& source = i % 3 == 0 ? first : second;
          const std::uint64_t offset = random() % source->size();
          const std::uint64_t longest = i % 50 == 0 ? source->size() : 3000;
          const std::uint64_t bytes = std::min<std::uint64_t>(random() % (longest + 1), source->size() - offset);
          reads.push_back({i % 3 == 0 ? key : other, offset, nullptr, bytes, 0});
          expected.push_back(source->data() + offset);
          total += bytes;
        }
        Bytes target(total);
        std::uint64_t at = 0;
        for (auto& read : reads) {
          read.target = target.data() + at;
          at += read.bytes;
        }
        REQUIRE(peer.Read(reads, 5s, kNever, nullptr) == total);
        for (std::size_t i = 0; i < reads.size(); ++i) {
          REQUIRE((reads[i].bytes == 0 || std::memcmp(reads[i].target, expected[i], reads[i].bytes) == 0));
        }
      }
    });
  }
  for (auto& caller : callers) caller.join();
  REQUIRE(peer.Read({}, 5s, kNever, nullptr) == 0);
  REQUIRE(server->served_bytes() > 0);
}

void TestRefusals() {
  const auto server = Serve();
  const auto bytes = Random(1 << 20, 3);
  const auto key = Open(*server, bytes);
  TcpPeer peer(To(*server), kNever);
  Bytes target(2 << 20);
  const auto read = [&](const RegionKey& which, std::uint64_t offset, std::uint64_t length) {
    return CodeOf([&] { peer.Read({{which, offset, target.data(), length, 7}}, 5s, kNever, nullptr); });
  };
  auto wrong = key;
  wrong[0] ^= 1;
  REQUIRE(read(wrong, 0, 10) == "REGION_REFUSED");
  REQUIRE(read(key, 0, (1 << 20) + 1) == "REGION_REFUSED");
  REQUIRE(read(key, ~std::uint64_t{0}, 10) == "REGION_REFUSED");
  REQUIRE(read(key, (1 << 20) - 3, 4) == "REGION_REFUSED");
  try {
    peer.Read({{key, 0, target.data(), 100, 0}, {wrong, 0, target.data() + 100, 100, 3}}, 5s, kNever, nullptr);
    REQUIRE(false);
  } catch (const ckpt::Error& error) {
    REQUIRE((error.index() == 3 && error.field() == "region" && !error.peer().empty()));
  }
  // A refusal ends its own batch alone.
  REQUIRE((peer.alive() && read(key, 0, 1 << 20) == ""));
  REQUIRE(std::memcmp(target.data(), bytes->data(), 1 << 20) == 0);
  const auto region = server->regions().Close(key);
  server->regions().AwaitUnused(*region);
  REQUIRE(read(key, 0, 10) == "REGION_REFUSED");
  REQUIRE(peer.alive());
}

/// A region that closes while it is read: what came is either all of it, unchanged, or refused.
void TestCloseWhileRead() {
  const auto server = Serve();
  for (int round = 0; round < 30; ++round) {
    const auto bytes = Random(4 << 20, 4);
    const Bytes before = *bytes;
    const auto key = Open(*server, bytes);
    TcpPeer peer(To(*server, 2), kNever);
    Bytes target(bytes->size());
    std::string code;
    std::thread reader(
        [&] { code = CodeOf([&] { peer.Read({{key, 0, target.data(), target.size(), 0}}, 5s, kNever, nullptr); }); });
    std::this_thread::sleep_for(std::chrono::microseconds(150 * round));
    const auto region = server->regions().Close(key);
    // The owner would use the memory for something else now; under sanitizers only once nobody reads it.
    server->regions().AwaitUnused(*region);
    std::fill(bytes->begin(), bytes->end(), std::byte{0});
    reader.join();
    REQUIRE((code == "" || code == "REGION_REFUSED"));
    if (code.empty()) REQUIRE(target == before);
  }
}

void TestAuthorization() {
  const auto server = Serve();
  auto options = To(*server);
  options.secret = "another secret, as long as it has to be";
  REQUIRE(CodeOf([&] { TcpPeer(options, kNever); }) == "PEER_UNAUTHORIZED");
  options = To(*server);
  options.endpoint[3] ^= 1;
  REQUIRE(CodeOf([&] { TcpPeer(options, kNever); }) == "PEER_PROTOCOL");
  REQUIRE(CodeOf([&] { TcpServer({{ParseTcpAddress("127.0.0.1:0")}, "short"}); }) == "INVALID_ARGUMENT");
  options = To(*server);
  server->Stop();
  REQUIRE(CodeOf([&] { TcpPeer(options, kNever); }) == "PEER_LOST");
}

/// Bytes that are no protocol, and connections that say nothing, hurt nobody but themselves.
void TestHostileClients() {
  const auto server = Serve();
  const auto bytes = Random(1 << 16, 5);
  const auto key = Open(*server, bytes);
  std::vector<ckpt::ScopedFd> silent;
  std::mt19937_64 random(6);
  std::size_t chosen = 0;
  for (int i = 0; i < 20; ++i) {
    auto fd = ConnectTcp(server->addresses(), std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen);
    ConfigureStream(fd.get());
    std::string junk(random() % 300, '\0');
    for (auto& c : junk) c = static_cast<char>(random());
    if (i % 2 == 0) std::memcpy(junk.data(), kTcpMagic.data(), std::min(junk.size(), kTcpMagic.size()));
    int number = 0;
    if (i % 4 != 0) SendBytes(fd.get(), junk.data(), junk.size(), [] { return true; }, number);
    silent.push_back(std::move(fd));
  }
  // One that knows the secret, and then asks for what cannot be.
  for (const std::uint32_t extents : {0u, 65u, 1u}) {
    auto fd = ConnectTcp(server->addresses(), std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen);
    ConfigureStream(fd.get());
    const auto keys = GreetServer(fd.get(), server->id(), kSecret, {Protection::kAuthenticated}, "test",
                                  std::chrono::steady_clock::now() + 5s, [] { return false; });
    TcpChannel channel(fd.get(), keys);
    const RequestHeader header{Operation::kRead, extents, 1, 1 << 20};
    const WireExtent extent{key, 0, 10};  // Another size than the header says.
    int number = 0;
    channel.Send(&header, sizeof header, [] { return true; }, number);
    channel.Send(&extent, sizeof extent, [] { return true; }, number);
    char answer = 0;
    REQUIRE(ReceiveBytes(fd.get(), &answer, 1, [] { return true; }, number) == Io::kClosed);
  }
  TcpPeer peer(To(*server), kNever);
  Bytes target(bytes->size());
  peer.Read({{key, 0, target.data(), target.size(), 0}}, 5s, kNever, nullptr);
  REQUIRE(target == *bytes);
}

/// However many connections strangers hold, those who know the secret get in, and those who did keep theirs.
void TestCrowd() {
  const auto server = Serve();
  const auto bytes = Random(1 << 16, 7);
  const auto key = Open(*server, bytes);
  TcpPeer before(To(*server), kNever);
  std::vector<ckpt::ScopedFd> held;
  std::size_t chosen = 0;
  for (int i = 0; i < 700; ++i) {
    held.push_back(ConnectTcp(server->addresses(), std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen));
  }
  TcpPeer peer(To(*server), kNever);
  Bytes target(bytes->size());
  for (auto* one : {&before, &peer}) {
    std::fill(target.begin(), target.end(), std::byte{0});
    one->Read({{key, 0, target.data(), target.size(), 0}}, 5s, kNever, nullptr);
    REQUIRE(target == *bytes);
  }
  REQUIRE(server->connections() < 400);
}

void TestServerLostInTheMiddle() {
  for (int round = 0; round < 10; ++round) {
    auto server = Serve();
    const auto bytes = Random(8 << 20, 7);
    const auto key = Open(*server, bytes);
    TcpPeer peer(To(*server), kNever);
    Bytes target(bytes->size());
    std::vector<std::string> codes(3);
    std::vector<std::thread> readers;
    for (auto& code : codes) {
      readers.emplace_back([&] {
        code = CodeOf([&] {
          for (int i = 0; i < 1000; ++i) {
            Bytes own(bytes->size());
            peer.Read({{key, 0, own.data(), own.size(), 0}}, 5s, kNever, nullptr);
            REQUIRE(own == *bytes);
          }
        });
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * round));
    server->Stop();
    for (auto& reader : readers) reader.join();
    for (const auto& code : codes) REQUIRE(code == "PEER_LOST");
    REQUIRE(!peer.alive());
    REQUIRE(CodeOf([&] { peer.Read({{key, 0, target.data(), 1, 0}}, 5s, kNever, nullptr); }) == "PEER_LOST");
  }
}

/// A peer that greets and then says nothing more, on `server`'s behalf.
class Mute {
 public:
  Mute() : listener_(ListenTcp(address_)) {
    thread_ = std::thread([this] {
      while (!stop_.load()) {
        ckpt::ScopedFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!fd) {
          std::this_thread::sleep_for(5ms);
          continue;
        }
        ConfigureStream(fd.get());
        if (GreetClient(fd.get(), id_, kSecret, {Protection::kNone}, [this] { return stop_.load(); }))
          held_.push_back(std::move(fd));
      }
    });
  }
  ~Mute() {
    stop_.store(true);
    thread_.join();
  }
  TcpPeerOptions options() const { return {id_, {address_}, kSecret, 2, 5s}; }

 private:
  TcpAddress address_{"127.0.0.1", 0};
  EndpointId id_{};
  ckpt::ScopedFd listener_;
  std::vector<ckpt::ScopedFd> held_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void TestSilence() {
  const Mute mute;
  Bytes target(1 << 20);
  {
    TcpPeer peer(mute.options(), kNever);
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(CodeOf([&] { peer.Read({{{}, 0, target.data(), target.size(), 0}}, 300ms, kNever, nullptr); }) == "PEER_LOST");
    REQUIRE(std::chrono::steady_clock::now() - begin < 3s);
  }
  TcpPeer peer(mute.options(), kNever);
  Cancellation cancellation;
  std::thread canceller([&] {
    std::this_thread::sleep_for(50ms);
    cancellation.Cancel();
  });
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(CodeOf([&] { peer.Read({{{}, 0, target.data(), target.size(), 0}}, 60s, cancellation, nullptr); }) == "ABORTED");
  REQUIRE(std::chrono::steady_clock::now() - begin < 5s);
  canceller.join();
}

void TestCancellation() {
  const auto server = Serve();
  const auto bytes = Random(16 << 20, 8);
  const auto key = Open(*server, bytes);
  TcpPeer peer(To(*server, 2), kNever);
  Bytes target(bytes->size());
  for (int round = 0; round < 10; ++round) {
    Cancellation cancellation;
    std::thread canceller([&, round] {
      std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
      cancellation.Cancel();
    });
    const auto code = CodeOf([&] { peer.Read({{key, 0, target.data(), target.size(), 0}}, 5s, cancellation, nullptr); });
    REQUIRE((code == "" || code == "ABORTED"));
    // Nothing lands any more: the caller may use the memory.
    std::fill(target.begin(), target.end(), std::byte{0});
    REQUIRE(std::all_of(target.begin(), target.end(), [](std::byte byte) { return byte == std::byte{0}; }));
    canceller.join();
    REQUIRE(peer.alive());
  }
  peer.Read({{key, 0, target.data(), target.size(), 0}}, 5s, kNever, nullptr);
  REQUIRE(target == *bytes);
  // Closing fails what is under way.
  std::string code;
  std::thread reader([&] {
    code = CodeOf([&] {
      for (;;) peer.Read({{key, 0, target.data(), target.size(), 0}}, 5s, kNever, nullptr);
    });
  });
  std::this_thread::sleep_for(20ms);
  peer.Close();
  reader.join();
  REQUIRE(code == "ABORTED");
}

void TestGrouping() {
  std::vector<TcpRead> reads;
  for (std::uint64_t i = 0; i < 200; ++i) reads.push_back({{}, i * 1000, nullptr, i == 100 ? 5000 : i % 7, 0});
  std::uint64_t total = 0;
  for (const auto& group : GroupReads(reads, 1000)) {
    REQUIRE((group.bytes > 0 && group.bytes <= 1000 && group.reads.size() <= kMaxExtents));
    std::uint64_t sum = 0;
    for (const auto& read : group.reads) sum += read.bytes;
    REQUIRE(sum == group.bytes);
    total += sum;
  }
  std::uint64_t expected = 0;
  for (const auto& read : reads) expected += read.bytes;
  REQUIRE(total == expected);
}

}  // namespace

TEST_CASE("tcp: addresses") { TestAddresses(); }
TEST_CASE("tcp: grouping") { TestGrouping(); }
TEST_CASE("tcp: congestion control within a machine") { TestCongestionWithinMachine(); }
TEST_CASE("tcp: reads of several callers") { TestReads(); }
TEST_CASE("tcp: refused regions") { TestRefusals(); }
TEST_CASE("tcp: a region that closes while it is read") { TestCloseWhileRead(); }
TEST_CASE("tcp: authorization") { TestAuthorization(); }
TEST_CASE("tcp: hostile clients") { TestHostileClients(); }
TEST_CASE("tcp: a crowd of strangers") { TestCrowd(); }
TEST_CASE("tcp: a server that is lost in the middle") { TestServerLostInTheMiddle(); }
TEST_CASE("tcp: silence") { TestSilence(); }
TEST_CASE("tcp: cancellation and closing") { TestCancellation(); }
