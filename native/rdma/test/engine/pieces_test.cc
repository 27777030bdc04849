// What of the engine needs no device: batches cut into pieces, GIDs, the meaning of statuses, a library that is or is not
// there.
#include "ckpt/pieces.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "code_of.h"
#include "codes.h"
#include "context.h"
#include "device_info.h"
#include "gid.h"
#include "verbs.h"
#include "work_error.h"

using ckpt::Pieces;
using ckpt::RemoteCopy;
using namespace ckpt::rdma;

namespace {

/// Every byte of random rows is handed out exactly once, in pieces that fit, though some come back.
void TestPieces() {
  std::mt19937 random(7);
  for (int round = 0; round < 300; round++) {
    const std::uint64_t piece_bytes = 1 + random() % 50;
    std::vector<RemoteCopy> rows;
    std::vector<int> wanted(4096);
    std::uint64_t at = 0;
    for (int i = 0; i < 40; i++) {
      if (random() % 3 == 0) at += random() % 5;
      const std::uint64_t bytes = random() % 90;
      if (at + bytes > wanted.size()) break;
      rows.push_back({0, at + 1000, 0, at, bytes});
      for (std::uint64_t k = 0; k < bytes; k++) wanted[at + k]++;
      at += bytes;
    }
    Pieces pieces(rows, piece_bytes);
    std::vector<int> got(wanted.size());
    std::uint64_t sum = 0;
    RemoteCopy piece;
    while (pieces.Take(piece)) {
      REQUIRE((piece.bytes > 0 && piece.bytes <= piece_bytes));
      REQUIRE(piece.remote_offset == piece.local_offset + 1000);
      if (random() % 4 == 0) {
        pieces.Return(piece);
        continue;
      }
      sum += piece.bytes;
      for (std::uint64_t k = 0; k < piece.bytes; k++) got[piece.local_offset + k]++;
    }
    REQUIRE(pieces.empty());
    REQUIRE(sum == pieces.bytes());
    REQUIRE(got == wanted);
  }
}

/// Rows that continue each other are one; those that only seem to are not.
void TestMerging() {
  const auto count = [](const std::vector<RemoteCopy>& rows) {
    Pieces pieces(rows, 1 << 20);
    RemoteCopy piece;
    int taken = 0;
    while (pieces.Take(piece)) taken++;
    return taken;
  };
  REQUIRE(count({{0, 0, 0, 0, 10}, {0, 10, 0, 10, 5}, {0, 15, 0, 15, 1}}) == 1);
  REQUIRE(count({{0, 0, 0, 0, 10}, {0, 11, 0, 10, 5}}) == 2);
  REQUIRE(count({{0, 0, 0, 0, 10}, {0, 10, 0, 11, 5}}) == 2);
  REQUIRE(count({{0, 0, 0, 0, 10}, {1, 10, 0, 10, 5}}) == 2);
  REQUIRE(count({{0, 0, 0, 0, 10}, {0, 10, 1, 10, 5}}) == 2);
  REQUIRE(count({{0, 0, 0, 0, 0}, {0, 10, 0, 10, 0}}) == 0);
}

void TestGids() {
  const std::string text = "fe80:0000:0000:0000:0a1b:2cff:fe3d:4e5f";
  REQUIRE(GidText(ParseGid(text, "gid")) == text);
  const std::string upper = "FE80:0000:0000:0000:0A1B:2CFF:FE3D:4E5F";
  REQUIRE(GidText(ParseGid(upper, "gid")) == text);
  for (const char* bad : {"", "fe80::1", "fe80:0000:0000:0000:0a1b:2cff:fe3d:4e5", "fe80:0000:0000:0000:0a1b:2cff:fe3d:4e5g",
                          "fe80-0000-0000-0000-0a1b-2cff-fe3d-4e5f", "fe80:0000:0000:0000:0a1b:2cff:fe3d:4e5f:"}) {
    REQUIRE(CodeOf([&] { ParseGid(bad, "gid"); }) == "INVALID_ARGUMENT");
  }
}

void TestStatuses() {
  const WorkError refused(IBV_WC_REM_ACCESS_ERR, 137, "a queue pair", 3);
  REQUIRE(refused.code() == std::string(code::kRegionRefused));
  REQUIRE(refused.status() == std::string("IBV_WC_REM_ACCESS_ERR"));
  REQUIRE((refused.remote() == 3u && refused.vendor_error() == 137 && refused.error_number() == IBV_WC_REM_ACCESS_ERR));
  const WorkError lost(IBV_WC_RETRY_EXC_ERR, 0, "a queue pair", 3);
  REQUIRE(lost.code() == std::string(code::kPeerLost));
  REQUIRE(!lost.remote());
  REQUIRE((MayGoElsewhere(IBV_WC_RETRY_EXC_ERR) && MayGoElsewhere(IBV_WC_WR_FLUSH_ERR)));
  REQUIRE((!MayGoElsewhere(IBV_WC_REM_ACCESS_ERR) && !MayGoElsewhere(IBV_WC_LOC_PROT_ERR)));
  REQUIRE(WorkError(IBV_WC_LOC_PROT_ERR, 0, "x", 1).code() == std::string(ckpt::code::kNativeFailure));
}

/// On a machine without devices, and on one without the library, that is what is said.
void TestLibrary() {
  if (!Verbs::Get().problem().empty()) {
    REQUIRE(CodeOf([] { ListDevices(); }) == "ADDON_UNAVAILABLE");
    return;
  }
  const auto devices = ListDevices();
  REQUIRE(std::is_sorted(devices.begin(), devices.end(), [](const auto& a, const auto& b) { return a.name < b.name; }));
  REQUIRE(CodeOf([] { Context("no_such_device", 16); }) == "INVALID_ARGUMENT");
}

}  // namespace

TEST_CASE("RDMA batches in pieces") { TestPieces(); }
TEST_CASE("RDMA rows that continue each other") { TestMerging(); }
TEST_CASE("GIDs") { TestGids(); }
TEST_CASE("work completion statuses") { TestStatuses(); }
TEST_CASE("libibverbs, there or not") { TestLibrary(); }
