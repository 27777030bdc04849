#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

struct evp_cipher_ctx_st;

namespace ckpt::host {

using Sha256Digest = std::array<std::uint8_t, 32>;

/// HMAC-SHA-256 (RFC 2104) of `message`, by libcrypto.
Sha256Digest HmacSha256(std::string_view key, std::string_view message);

/// Compares in constant time, wherever the two differ.
bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b);

/// HKDF-Expand with SHA-256 (RFC 5869, section 2.3): `bytes` bytes of key material, at most 8160.
void HkdfExpand(const Sha256Digest& key, std::string_view info, std::uint8_t* out, std::size_t bytes);

/// Protection of a connection after its handshake, weakest first.
enum class Protection : std::uint8_t {
  /// None: for networks that both sides trust.
  kNone = 0,
  /// Requests, region keys and answers are encrypted; bytes of regions are readable. Everything is authenticated.
  kAuthenticated = 1,
  /// Everything is encrypted and authenticated.
  kEncrypted = 2,
};

/// Algorithm that authenticates and encrypts the bytes of regions; each is a bit of DataCiphers. Everything else always uses
/// AES-256-GCM.
enum class DataCipher : std::uint8_t { kAes256Gcm = 1, kAegis128x4 = 2 };
/// A set of ciphers.
using DataCiphers = std::uint8_t;

/// Key and first nonce of one direction of one connection.
struct TrafficKey {
  std::array<std::uint8_t, 32> key;
  std::array<std::uint8_t, 12> nonce;
};

/// Result of a handshake.
struct SessionKeys {
  Protection protection = Protection::kAuthenticated;
  DataCipher cipher = DataCipher::kAes256Gcm;
  /// For messages.
  TrafficKey sending;
  TrafficKey receiving;
  /// For bytes of regions.
  TrafficKey sending_data;
  TrafficKey receiving_data;
};

inline constexpr std::size_t kTagBytes = 16;

/// AES-256-GCM over the records of one direction. A record's nonce is its number, so that records that were changed, repeated,
/// omitted or moved are refused.
class RecordCipher {
 public:
  explicit RecordCipher(const TrafficKey& key);
  ~RecordCipher();
  RecordCipher(const RecordCipher&) = delete;
  RecordCipher& operator=(const RecordCipher&) = delete;

  /// Encrypts the next record in place; writes its 16-byte tag to `tag`.
  void Seal(std::uint8_t* record, std::size_t bytes, std::uint8_t* tag);
  /// Decrypts the next record in place. @returns false if the tag does not match; `record` must not be used then.
  bool Open(std::uint8_t* record, std::size_t bytes, const std::uint8_t* tag);

  /// The same for a record in pieces: Begin, Update for each piece, then Finish when sending, or Check when receiving; received
  /// bytes must not be used before Check succeeds.
  void Begin(bool sending);
  /// Encrypts or decrypts a piece into `out`; if that is null, the piece is only authenticated. All pieces of a record are
  /// handled the same way.
  void Update(std::uint8_t* out, const std::uint8_t* in, std::size_t bytes);
  void Finish(std::uint8_t* tag);
  bool Check(const std::uint8_t* tag);

 private:
  void UpdateNow(std::uint8_t* out, const std::uint8_t* in, std::size_t bytes);

  evp_cipher_ctx_st* const context_;
  const TrafficKey key_;
  std::uint64_t number_ = 0;
};

}  // namespace ckpt::host
