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

/// Compares in a time that is the same wherever the two differ.
bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b);

/// HKDF-Expand with SHA-256 (RFC 5869, section 2.3): `bytes` bytes of key material, at most 8160.
void HkdfExpand(const Sha256Digest& key, std::string_view info, std::uint8_t* out, std::size_t bytes);

/// What protects a connection after its handshake, weakest first.
enum class Protection : std::uint8_t {
  /// Nothing: for networks that both sides call trusted.
  kNone = 0,
  /// Requests, region keys and answers are encrypted; bytes of regions are readable. All of it is authenticated.
  kAuthenticated = 1,
  /// All of it is encrypted and authenticated.
  kEncrypted = 2,
};

/// What authenticates and encrypts the bytes of regions; each is a bit of DataCiphers. Everything else is always AES-256-GCM.
enum class DataCipher : std::uint8_t { kAes256Gcm = 1, kAegis128x4 = 2 };
/// A set of ciphers.
using DataCiphers = std::uint8_t;

/// Key and first nonce of one direction of one connection.
struct TrafficKey {
  std::array<std::uint8_t, 32> key;
  std::array<std::uint8_t, 12> nonce;
};

/// What a handshake agrees on.
struct SessionKeys {
  Protection protection = Protection::kAuthenticated;
  DataCipher cipher = DataCipher::kAes256Gcm;
  /// Of messages.
  TrafficKey sending;
  TrafficKey receiving;
  /// Of bytes of regions.
  TrafficKey sending_data;
  TrafficKey receiving_data;
};

inline constexpr std::size_t kTagBytes = 16;

/// AES-256-GCM over the records of one direction. The nonce of a record is its number, so that a record that is changed,
/// repeated, left out, or put in another place is refused.
class RecordCipher {
 public:
  explicit RecordCipher(const TrafficKey& key);
  ~RecordCipher();
  RecordCipher(const RecordCipher&) = delete;
  RecordCipher& operator=(const RecordCipher&) = delete;

  /// Encrypts the next record in place; `tag` gets its 16 bytes.
  void Seal(std::uint8_t* record, std::size_t bytes, std::uint8_t* tag);
  /// Decrypts the next record in place. @returns false, and what `record` holds is of no use, where the tag is not its own.
  bool Open(std::uint8_t* record, std::size_t bytes, const std::uint8_t* tag);

  /// The same for a record that comes in pieces: Begin, Update for each piece, then Finish where it is sent, or Check where it
  /// was received, and is of no use before that.
  void Begin(bool sending);
  /// Encrypts or decrypts a piece into `out`; where that is null, the piece is authenticated alone. A record is one or the
  /// other.
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
