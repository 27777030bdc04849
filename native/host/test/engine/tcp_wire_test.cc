// What somebody on the way between two TCP endpoints can read and do: nothing is believed that was not sent, at its place.
#include <doctest/doctest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ckpt/cancellation.h"
#include "code_of.h"
#include "session_keys.h"
#include "tcp_peer.h"
#include "tcp_server.h"
#include "wiretap.h"

using ckpt::Cancellation;
using namespace ckpt;
using namespace ckpt::host;
using namespace ckpt::host::wire;
using namespace std::chrono_literals;

namespace {

bool Holds(const Traffic& traffic, const void* what, std::size_t bytes) {
  const auto* begin = static_cast<const std::uint8_t*>(what);
  return std::search(traffic.begin(), traffic.end(), begin, begin + bytes) != traffic.end();
}

const Wire::Change kFaithful = [](Side, std::size_t, Traffic&) {};

void TestWhatIsSeen() {
  const auto levels = {Protection::kNone, Protection::kAuthenticated, Protection::kEncrypted};
  const auto see = [](Protection mine, Protection theirs, DataCiphers my_ciphers, DataCiphers their_ciphers) {
    const World world(300'000, theirs, their_ciphers);
    Wire wire(world.server->addresses()[0], kFaithful);
    Bytes target(world.bytes->size());
    const auto agreed = std::max(mine, theirs);
    {
      TcpPeer peer(world.Over(wire, mine, my_ciphers), kNever);
      REQUIRE(peer.protection() == agreed);
      REQUIRE(peer.cipher() == FastestDataCipher(my_ciphers & their_ciphers));
      REQUIRE((world.Read(peer, target, 3) == "" && target == *world.bytes));
    }
    const auto seen = wire.Recorded();
    REQUIRE(Holds(seen[0], world.key.data(), world.key.size()) == (agreed == Protection::kNone));
    REQUIRE(Holds(seen[1], world.bytes->data() + 1000, 64) == (agreed != Protection::kEncrypted));
    for (const auto& one : seen) REQUIRE(!Holds(one, kSecret.data(), kSecret.size()));
  };
  for (const auto mine : levels) {
    for (const auto theirs : levels) {
      for (const auto ciphers : Offers()) {
        see(mine, theirs, ciphers, AvailableDataCiphers());
        if (ciphers != AvailableDataCiphers()) see(mine, theirs, AvailableDataCiphers(), ciphers);
      }
    }
  }
}

/// One thing that an attacker does to the traffic of one side, once `at` bytes of it have passed.
struct Attack {
  const char* name;
  std::function<void(Traffic& bytes, std::size_t offset, std::mt19937_64& random)> apply;
};

const std::vector<Attack> kAttacks{
    {"one bit", [](Traffic& bytes, std::size_t offset,
                   std::mt19937_64& random) { bytes[offset] ^= static_cast<std::uint8_t>(1u << (random() % 8)); }},
    {"left out",
     [](Traffic& bytes, std::size_t offset, std::mt19937_64& random) {
       const auto end = std::min<std::size_t>(bytes.size(), offset + 1 + random() % 2000);
       bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(offset), bytes.begin() + static_cast<std::ptrdiff_t>(end));
     }},
    {"sent twice",
     [](Traffic& bytes, std::size_t offset, std::mt19937_64& random) {
       const auto count = std::min<std::size_t>(bytes.size() - offset, 1 + random() % 2000);
       const Traffic piece(bytes.begin() + static_cast<std::ptrdiff_t>(offset),
                           bytes.begin() + static_cast<std::ptrdiff_t>(offset + count));
       bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(offset), piece.begin(), piece.end());
     }},
    {"put in",
     [](Traffic& bytes, std::size_t offset, std::mt19937_64& random) {
       Traffic piece(1 + random() % 300);
       for (auto& byte : piece) byte = static_cast<std::uint8_t>(random());
       bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(offset), piece.begin(), piece.end());
     }},
};

/// Whatever is changed, wherever: a read that goes well has the right bytes, every other one ends with an error, and no byte is
/// written that is not the region's.
void TestChangedTraffic() {
  std::mt19937_64 random(7);
  const World world(900'000);
  int refused = 0;
  for (int round = 0; round < 160; ++round) {
    const auto& attack = kAttacks[static_cast<std::size_t>(round) % kAttacks.size()];
    const auto side = random() % 4 == 0 ? Side::kClient : Side::kServer;
    const auto wanted = random() % 2 == 0 ? Protection::kAuthenticated : Protection::kEncrypted;
    const auto offers = Offers();
    const auto ciphers = offers[random() % offers.size()];
    // The client says little: its hello, its proof, and requests; some of this is in the handshake.
    const std::size_t at = side == Side::kClient ? random() % 240 : random() % 900'000;
    bool done = false;
    Wire wire(world.server->addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
      if (done || from != side || at < before || at >= before + bytes.size()) return;
      attack.apply(bytes, at - before, random);
      done = true;
    });
    Bytes target(world.bytes->size(), std::byte{0});
    std::string code = "not connected";
    try {
      auto options = world.Over(wire, wanted, ciphers);
      options.timeout = 2s;
      TcpPeer peer(options, kNever);
      code = world.Read(peer, target, 1 + static_cast<unsigned>(random() % 5));
    } catch (const ckpt::Error& error) {
      code = error.code();
    }
    wire.Recorded();
    if (code.empty()) {
      REQUIRE(target == *world.bytes);
    } else {
      ++refused;
      REQUIRE((code == "PEER_LOST" || code == "PEER_UNAUTHORIZED" || code == "PEER_PROTOCOL"));
    }
    // What is sent twice at the very end comes after all that is read.
    REQUIRE((!code.empty() || !done || attack.name == std::string("sent twice")));
  }
  REQUIRE(refused > 120);
}

/// A record in the traffic of one side, with its tag.
struct Place {
  std::size_t at;
  std::size_t bytes;
};

/// The records of one side for requests of 1 MiB each, from the end of the handshake on.
std::vector<Place> RecordsOf(Side side, std::size_t requests) {
  std::vector<Place> places;
  std::size_t at =
      side == Side::kClient ? sizeof(ClientHello) + sizeof(ClientProof) : sizeof(ServerHello) + sizeof(ServerProof);
  const auto add = [&](std::size_t bytes) {
    places.push_back({at, bytes + kTagBytes});
    at += bytes + kTagBytes;
  };
  for (std::size_t i = 0; i < requests; ++i) {
    if (side == Side::kClient) {
      add(sizeof(RequestHeader));
      add(sizeof(WireExtent));
      continue;
    }
    add(sizeof(ReplyHeader));
    for (int record = 0; record < 4; ++record) add(kRecordBytes);
    add(sizeof(ReplyTrailer));
  }
  return places;
}

/// Whole records, each with the tag that it was sent with, that are not where they were sent: the read fails, and nobody is
/// served what was not asked for.
void TestMovedRecords() {
  constexpr std::size_t kRequests = 3;
  const World world(kRequests << 20);
  enum class Move { kSwapped, kRepeated, kInstead, kLeftOut, kCutShort };
  std::mt19937_64 random(11);
  std::vector<std::pair<Protection, DataCiphers>> agreements;
  for (const auto ciphers : Offers()) {
    agreements.emplace_back(Protection::kAuthenticated, ciphers);
    agreements.emplace_back(Protection::kEncrypted, ciphers);
  }
  for (const auto side : {Side::kClient, Side::kServer}) {
    const auto places = RecordsOf(side, kRequests);
    const auto total = places.back().at + places.back().bytes;
    for (const auto move : {Move::kSwapped, Move::kRepeated, Move::kInstead, Move::kLeftOut, Move::kCutShort}) {
      for (const auto& [protection, ciphers] : agreements) {
        const auto first = random() % (places.size() - 1);
        auto second = first + 1;
        // One of the same size, so that nothing but its number tells it from the one whose place it takes.
        while (second + 1 < places.size() && places[second].bytes != places[first].bytes) ++second;
        Traffic held;
        std::size_t told = 0;
        Wire* on = nullptr;
        Wire wire(world.server->addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
          if (from != side) return;
          // Everything after the handshake is kept until the last record of all is there.
          if (before < places[0].at) {
            told = std::min(bytes.size(), places[0].at - before);
            held.assign(bytes.begin() + static_cast<std::ptrdiff_t>(told), bytes.end());
            bytes.resize(told);
            return;
          }
          held.insert(held.end(), bytes.begin(), bytes.end());
          bytes.clear();
          if (held.size() + places[0].at < total) return;
          const auto record = [&](std::size_t index) {
            const auto begin = held.begin() + static_cast<std::ptrdiff_t>(places[index].at - places[0].at);
            return Traffic(begin, begin + static_cast<std::ptrdiff_t>(places[index].bytes));
          };
          for (std::size_t i = 0; i < places.size(); ++i) {
            auto one = record(i);
            if (move == Move::kSwapped && i == first) one = record(second);
            if (move == Move::kSwapped && i == second) one = record(first);
            if (move == Move::kInstead && i == second) one = record(first);
            if (move == Move::kLeftOut && i == first) continue;
            if (move == Move::kCutShort && i == first) one.resize(random() % one.size());
            bytes.insert(bytes.end(), one.begin(), one.end());
            if (move == Move::kRepeated && i == first) bytes.insert(bytes.end(), one.begin(), one.end());
            if (move == Move::kCutShort && i == first) break;
          }
          on->End();
        });
        on = &wire;
        Bytes target(world.bytes->size(), std::byte{0});
        TcpPeer peer(world.Over(wire, protection, ciphers), kNever);
        const auto code = world.Read(peer, target, 1);
        REQUIRE((code == "PEER_UNAUTHORIZED" || code == "PEER_LOST"));
        // Where the answer itself was there, it is not the end of the connection that is seen, but the forgery.
        if (side == Side::kServer && (move == Move::kSwapped || move == Move::kInstead)) REQUIRE(code == "PEER_UNAUTHORIZED");
      }
    }
  }
}

/// Nobody on the way can talk two sides down to less than what the stronger one wants.
void TestDowngrade() {
  // Where the protection is in either hello.
  constexpr std::size_t kInClientHello = 12, kInServerHello = 14;
  const auto attempt = [&](Protection mine, Protection theirs, std::optional<std::uint8_t> client,
                           std::optional<std::uint8_t> server) {
    const World world(1000, theirs);
    Wire wire(world.server->addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
      if (before != 0) return;
      if (from == Side::kClient && client) bytes[kInClientHello] = *client;
      if (from == Side::kServer && server) bytes[kInServerHello] = *server;
    });
    const auto code = CodeOf([&] { TcpPeer(world.Over(wire, mine), kNever); });
    REQUIRE(world.server->served_bytes() == 0);
    return code;
  };
  for (const auto wanted : {Protection::kAuthenticated, Protection::kEncrypted}) {
    REQUIRE(attempt(wanted, wanted, std::nullopt, std::nullopt) == "");
    REQUIRE(attempt(wanted, wanted, 0, std::nullopt) == "PEER_UNAUTHORIZED");
    REQUIRE(attempt(wanted, wanted, std::nullopt, 0) == "PEER_PROTOCOL");
    REQUIRE(attempt(wanted, wanted, 0, 0) == "PEER_PROTOCOL");
    // One side would do without, and the attacker tells each what it wants to hear.
    REQUIRE(attempt(Protection::kNone, wanted, std::nullopt, 0) == "PEER_UNAUTHORIZED");
    REQUIRE(attempt(wanted, Protection::kNone, 0, static_cast<std::uint8_t>(wanted)) == "PEER_UNAUTHORIZED");
    REQUIRE(attempt(wanted, wanted, 3, std::nullopt) == "PEER_PROTOCOL");
    REQUIRE(attempt(wanted, wanted, std::nullopt, 3) == "PEER_PROTOCOL");
  }
}

/// Nor out of the cipher that they would use, or into one that the reader did not offer.
void TestCipherChanged() {
  constexpr std::size_t kInClientHello = 13, kInServerHello = 15;
  const auto attempt = [&](DataCiphers offered, std::optional<std::uint8_t> client, std::optional<std::uint8_t> server) {
    const World world(1000);
    Wire wire(world.server->addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
      if (before != 0) return;
      if (from == Side::kClient && client) bytes[kInClientHello] = *client;
      if (from == Side::kServer && server) bytes[kInServerHello] = *server;
    });
    const auto code = CodeOf([&] { TcpPeer(world.Over(wire, Protection::kAuthenticated, offered), kNever); });
    REQUIRE(world.server->served_bytes() == 0);
    return code;
  };
  for (const auto offered : Offers()) {
    REQUIRE(attempt(offered, std::nullopt, std::nullopt) == "");
    // 0 is none, 3 is two at once, 4 does not exist.
    for (const int chosen : {0, 3, 4, 0x80}) {
      REQUIRE(attempt(offered, std::nullopt, static_cast<std::uint8_t>(chosen)) == "PEER_PROTOCOL");
    }
    REQUIRE(attempt(offered, 0, std::nullopt) == "PEER_PROTOCOL");
    REQUIRE(attempt(offered, static_cast<std::uint8_t>(offered | 0x40), std::nullopt) == "PEER_UNAUTHORIZED");
  }
  REQUIRE(attempt(kGcm, std::nullopt, kAegis) == "PEER_PROTOCOL");
  if (AvailableDataCiphers() == kGcm) return;
  REQUIRE(attempt(AvailableDataCiphers(), kGcm, std::nullopt) == "PEER_UNAUTHORIZED");
  REQUIRE(attempt(AvailableDataCiphers(), std::nullopt, kGcm) == "PEER_UNAUTHORIZED");
  REQUIRE(attempt(AvailableDataCiphers(), kGcm, kAegis) == "PEER_UNAUTHORIZED");
}

/// What was recorded of one connection is of no use on the next, nor what one side said on the way back to it.
void TestReplayAndReflection() {
  const World world(5000);
  std::array<Traffic, 2> recorded;
  {
    Wire wire(world.server->addresses()[0], kFaithful);
    TcpPeer peer(world.Over(wire), kNever);
    Bytes target(5000);
    REQUIRE(world.Read(peer, target, 1) == "");
    recorded = wire.Recorded();
  }
  const auto served = world.server->served_bytes();
  std::size_t chosen = 0;
  int number = 0;
  const auto go_on = [] { return true; };
  {
    auto fd = ConnectTcp(world.server->addresses(), std::chrono::steady_clock::now() + 5s, [] { return false; }, chosen);
    ConfigureStream(fd.get());
    SendBytes(fd.get(), recorded[0].data(), recorded[0].size(), go_on, number);
    Traffic heard(sizeof(ServerHello) + sizeof(ServerProof) + 1);
    // The two answers of a handshake that is refused, and the end.
    REQUIRE(ReceiveBytes(fd.get(), heard.data(), heard.size(), go_on, number) == Io::kClosed);
  }
  REQUIRE(world.server->served_bytes() == served);
  // A server that only repeats another's answers, and one that sends a reader its own requests.
  for (const bool reflect : {false, true}) {
    Wire wire(world.server->addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
      if (from != Side::kServer || before >= recorded[1].size()) return;
      if (!reflect)
        std::copy_n(recorded[1].begin() + static_cast<std::ptrdiff_t>(before),
                    std::min(bytes.size(), recorded[1].size() - before), bytes.begin());
      if (reflect && before >= sizeof(ServerHello) + sizeof(ServerProof)) {
        std::copy_n(recorded[0].begin() + 96, std::min(bytes.size(), recorded[0].size() - 96), bytes.begin());
      }
    });
    Bytes target(5000, std::byte{0});
    const auto code = CodeOf([&] {
      TcpPeer peer(world.Over(wire), kNever);
      peer.Read({{world.key, 0, target.data(), target.size(), 0}}, 2s, kNever, nullptr);
    });
    REQUIRE(code == "PEER_UNAUTHORIZED");
  }
}

/// A wire that leads to the endpoint of a different run, and names to each side the endpoint that it expects: no handshake
/// succeeds, also where both runs have one secret (CKPT_P2P_SECRET).
void TestRelayedHandshake() {
  const World world(1000);
  for (const std::string& secret : {std::string("the secret of a different run"), kSecret}) {
    const TcpServer other(TcpServerOptions{{ParseTcpAddress("127.0.0.1:0")}, secret});
    for (const bool renames : {true, false}) {
      Wire wire(other.addresses()[0], [&](Side from, std::size_t before, Traffic& bytes) {
        const auto& id = from == Side::kClient ? other.id() : world.server->id();
        if (renames && before == 0 && bytes.size() >= 32) std::copy(id.begin(), id.end(), bytes.begin() + 16);
      });
      REQUIRE(CodeOf([&] { TcpPeer(world.Over(wire), kNever); }) == (renames ? "PEER_UNAUTHORIZED" : "PEER_PROTOCOL"));
      REQUIRE(other.served_bytes() == 0);
    }
  }
}

}  // namespace

TEST_CASE("tcp wire: what a wiretap sees") { TestWhatIsSeen(); }
TEST_CASE("tcp wire: changed traffic") { TestChangedTraffic(); }
TEST_CASE("tcp wire: records that are moved, repeated, left out or cut short") { TestMovedRecords(); }
TEST_CASE("tcp wire: downgrade") { TestDowngrade(); }
TEST_CASE("tcp wire: another cipher") { TestCipherChanged(); }
TEST_CASE("tcp wire: replay and reflection") { TestReplayAndReflection(); }
TEST_CASE("tcp wire: relayed handshake") { TestRelayedHandshake(); }
