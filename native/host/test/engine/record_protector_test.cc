// What computes and checks the tags of records: published answers, and what a record is protected from.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "data_cipher.h"
#include "region_table.h"
#include "session_keys.h"

using namespace ckpt;
using namespace ckpt::host;

namespace {

using Traffic = std::vector<std::uint8_t>;

std::string Hex(const std::uint8_t* bytes, std::size_t count) { return ToHex(bytes, count); }

void TestKnownAnswers() {
  // RFC 4231, cases 2 and 6.
  const auto hmac = [](std::string_view key, std::string_view text) {
    const auto digest = HmacSha256(key, text);
    return Hex(digest.data(), digest.size());
  };
  REQUIRE(hmac("Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  REQUIRE(hmac(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First") ==
          "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  REQUIRE(hmac("", "") == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
  // RFC 5869, case 1: extract and expand.
  const std::string key(22, '\x0b');
  std::string salt, info;
  for (char c = 0; c <= 0x0c; ++c) salt.push_back(c);
  for (int c = 0xf0; c <= 0xf9; ++c) info.push_back(static_cast<char>(c));
  std::uint8_t out[42];
  HkdfExpand(HmacSha256(salt, key), info, out, sizeof out);
  REQUIRE(Hex(out, sizeof out) == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  // The GCM specification's case 13: no data under a key and nonce of zeros.
  std::uint8_t tag[kTagBytes], none = 0;
  RecordCipher sealing(TrafficKey{});
  sealing.Seal(&none, 0, tag);
  REQUIRE(Hex(tag, sizeof tag) == "530f8afbc74536b9a963b4f1c4cb738b");
  // Each record has a number of its own, and only its own tag opens it.
  RecordCipher opening(TrafficKey{});
  REQUIRE(opening.Open(&none, 0, tag));
  std::uint8_t first[20] = {1, 2, 3}, second[20] = {1, 2, 3}, other[kTagBytes];
  sealing.Seal(first, sizeof first, tag);
  sealing.Seal(second, sizeof second, other);
  REQUIRE(std::memcmp(first, second, sizeof first) != 0);
  REQUIRE(!opening.Open(second, sizeof second, other));
  // In pieces, authenticated alone: the same whatever the pieces are.
  std::uint8_t plain[100] = {9};
  RecordCipher signing(TrafficKey{}), verifying(TrafficKey{});
  for (const std::size_t cut : {0u, 1u, 16u, 77u, 100u}) {
    signing.Begin(true);
    signing.Update(nullptr, plain, sizeof plain);
    signing.Finish(tag);
    verifying.Begin(false);
    verifying.Update(nullptr, plain, cut);
    verifying.Update(nullptr, plain + cut, sizeof plain - cut);
    REQUIRE(verifying.Check(tag));
  }
  verifying.Begin(false);
  verifying.Update(nullptr, plain, sizeof plain);
  REQUIRE(!verifying.Check(tag));
}

/// Every cipher, however the memory of a record is cut: what one side protects the other takes, once, in order, and nothing
/// else.
void TestRecordProtectors() {
  std::mt19937_64 random(5);
  for (const auto cipher : {DataCipher::kAes256Gcm, DataCipher::kAegis128x4}) {
    if ((static_cast<DataCiphers>(cipher) & AvailableDataCiphers()) == 0) continue;
    TrafficKey key{};
    key.key[0] = 7;
    for (const bool sealed : {false, true}) {
      const auto sending = MakeRecordProtector(cipher, key), receiving = MakeRecordProtector(cipher, key);
      const auto lost = MakeRecordProtector(cipher, key);
      for (const std::size_t bytes : {0u, 1u, 15u, 127u, 128u, 129u, 4095u, 4097u, 100'000u}) {
        Traffic plain(bytes), wire(bytes);
        for (auto& byte : plain) byte = static_cast<std::uint8_t>(random());
        const auto cut = [&](Traffic& of) {
          RecordPieces pieces;
          for (std::size_t at = 0; at < of.size();) {
            const auto piece = std::min<std::size_t>(of.size() - at, 1 + random() % (1 + of.size() / 2));
            pieces.push_back({of.data() + at, piece});
            at += piece;
          }
          return pieces;
        };
        std::uint8_t tag[kTagBytes];
        if (sealed) {
          sending->Seal(cut(plain), wire.data(), tag);
          REQUIRE((bytes < 15 || wire != plain));
        } else {
          sending->Sign(cut(plain), tag);
          wire = plain;
        }
        const auto take = [&](RecordProtector& by, Traffic& from) {
          return sealed ? by.Open(cut(from), tag) : by.Verify(cut(from), tag);
        };
        // One that expects this record a place later.
        const auto late = MakeRecordProtector(cipher, key);
        std::uint8_t other[kTagBytes];
        late->Sign({}, other);
        Traffic copy = wire;
        REQUIRE((take(*receiving, copy) && copy == plain));
        copy = wire;
        REQUIRE(!take(*late, copy));
        copy = wire;
        REQUIRE(!take(*receiving, copy));
        // Keeps the two in step.
        sending->Sign({}, other);
        if (bytes == 0) continue;
        // One bit, in the record or in its tag.
        copy = wire;
        const auto bit = random() % (8 * bytes);
        copy[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
        REQUIRE(!take(*lost, copy));
      }
    }
  }
}

/// The AEGISMAC-128X4 vector of RFC 10032, whatever the cuts, and with the number of the record in the nonce.
void TestAegisAnswers() {
  if ((AvailableDataCiphers() & static_cast<DataCiphers>(DataCipher::kAegis128x4)) == 0) {
    MESSAGE("no AEGIS here");
    return;
  }
  TrafficKey key{};
  key.key[0] = 0x10;
  key.key[1] = 0x01;
  key.nonce[0] = 0x10;
  key.nonce[2] = 0x02;
  Traffic data(35);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i);
  for (const std::size_t cut : {0u, 1u, 16u, 35u}) {
    std::uint8_t tag[kTagBytes];
    MakeRecordProtector(DataCipher::kAegis128x4, key)->Sign({{data.data(), cut}, {data.data() + cut, data.size() - cut}}, tag);
    REQUIRE(Hex(tag, sizeof tag) == "c45a98fd9ab8956ce616eb008cfe4e53");
  }
}

}  // namespace

TEST_CASE("records: known answers") { TestKnownAnswers(); }
TEST_CASE("records: known answers of AEGIS") { TestAegisAnswers(); }
TEST_CASE("records: each cipher takes its own records alone") { TestRecordProtectors(); }
