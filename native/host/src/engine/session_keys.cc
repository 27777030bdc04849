#include "session_keys.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "ckpt/error.h"
#include "libcrypto.h"
#include "prefetched.h"

namespace ckpt::host {
namespace {

/// EVP_CTRL_AEAD_GET_TAG and EVP_CTRL_AEAD_SET_TAG of openssl/evp.h.
constexpr int kGetTag = 0x10;
constexpr int kSetTag = 0x11;

/// Prefetch distance ahead of the cipher.
constexpr std::size_t kAheadBytes = 2048;
/// Bytes that are authenticated at once. Since OpenSSL 3.1 each call sets up the wide instructions of recent processors, which
/// pays off for more bytes.
std::size_t StepBytes() {
  constexpr unsigned long kWide = 0x30100000;
  static const std::size_t bytes = Libcrypto::Get().OpenSSL_version_num() >= kWide ? 8192 : 2048;
  return bytes;
}

void Require(bool well, const char* what) {
  if (!well) throw Error(code::kNativeFailure, std::string("libcrypto: ") + what + " failed");
}

}  // namespace

Sha256Digest HmacSha256(std::string_view key, std::string_view message) {
  const auto& crypto = Libcrypto::Get();
  Sha256Digest digest;
  unsigned bytes = digest.size();
  // An empty key must not be null: that would mean the key of the previous call.
  const void* const begin = key.empty() ? "" : key.data();
  Require(crypto.HMAC(crypto.EVP_sha256(), begin, static_cast<int>(key.size()),
                      reinterpret_cast<const Libcrypto::Bytes*>(message.data()), message.size(), digest.data(),
                      &bytes) != nullptr &&
              bytes == digest.size(),
          "HMAC");
  return digest;
}

bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b) {
  return Libcrypto::Get().CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void HkdfExpand(const Sha256Digest& key, std::string_view info, std::uint8_t* out, std::size_t bytes) {
  const std::string_view secret(reinterpret_cast<const char*>(key.data()), key.size());
  std::string message;
  for (unsigned char block = 1; bytes > 0; ++block) {
    message.append(info);
    message.push_back(static_cast<char>(block));
    const auto digest = HmacSha256(secret, message);
    const auto piece = std::min(bytes, digest.size());
    std::memcpy(out, digest.data(), piece);
    out += piece;
    bytes -= piece;
    message.assign(reinterpret_cast<const char*>(digest.data()), digest.size());
  }
}

RecordCipher::RecordCipher(const TrafficKey& key) : context_(Libcrypto::Get().EVP_CIPHER_CTX_new()), key_(key) {
  const auto& crypto = Libcrypto::Get();
  if (context_ == nullptr) throw Error(code::kOutOfMemory, "libcrypto: no memory for a cipher");
  if (crypto.EVP_CipherInit_ex(context_, crypto.EVP_aes_256_gcm(), nullptr, key_.key.data(), nullptr, 1) == 1) return;
  crypto.EVP_CIPHER_CTX_free(context_);
  Require(false, "EVP_CipherInit_ex");
}

RecordCipher::~RecordCipher() { Libcrypto::Get().EVP_CIPHER_CTX_free(context_); }

void RecordCipher::Seal(std::uint8_t* record, std::size_t bytes, std::uint8_t* tag) {
  Begin(true);
  Update(record, record, bytes);
  Finish(tag);
}

bool RecordCipher::Open(std::uint8_t* record, std::size_t bytes, const std::uint8_t* tag) {
  Begin(false);
  Update(record, record, bytes);
  return Check(tag);
}

void RecordCipher::Begin(bool sending) {
  // Numbers are never reused: a connection never has 2^64 records.
  auto nonce = key_.nonce;
  for (std::size_t i = 0; i < sizeof number_; ++i) nonce[nonce.size() - 1 - i] ^= static_cast<std::uint8_t>(number_ >> (8 * i));
  ++number_;
  Require(Libcrypto::Get().EVP_CipherInit_ex(context_, nullptr, nullptr, nullptr, nonce.data(), sending ? 1 : 0) == 1,
          "EVP_CipherInit_ex");
}

void RecordCipher::Update(std::uint8_t* out, const std::uint8_t* in, std::size_t bytes) {
  if (out != nullptr) return UpdateNow(out, in, bytes);
  ForEachPrefetched(in, bytes, StepBytes(), kAheadBytes,
                    [this](const std::uint8_t* piece, std::size_t count) { UpdateNow(nullptr, piece, count); });
}

void RecordCipher::UpdateNow(std::uint8_t* out, const std::uint8_t* in, std::size_t bytes) {
  int written = 0;
  Require(Libcrypto::Get().EVP_CipherUpdate(context_, out, &written, in, static_cast<int>(bytes)) == 1, "EVP_CipherUpdate");
}

void RecordCipher::Finish(std::uint8_t* tag) {
  const auto& crypto = Libcrypto::Get();
  std::uint8_t rest[kTagBytes];
  int written = 0;
  Require(crypto.EVP_CipherFinal_ex(context_, rest, &written) == 1, "EVP_CipherFinal_ex");
  Require(crypto.EVP_CIPHER_CTX_ctrl(context_, kGetTag, static_cast<int>(kTagBytes), tag) == 1, "EVP_CTRL_AEAD_GET_TAG");
}

bool RecordCipher::Check(const std::uint8_t* tag) {
  const auto& crypto = Libcrypto::Get();
  std::uint8_t expected[kTagBytes];
  std::memcpy(expected, tag, kTagBytes);
  Require(crypto.EVP_CIPHER_CTX_ctrl(context_, kSetTag, static_cast<int>(kTagBytes), expected) == 1, "EVP_CTRL_AEAD_SET_TAG");
  std::uint8_t rest[kTagBytes];
  int written = 0;
  return crypto.EVP_CipherFinal_ex(context_, rest, &written) == 1;
}

}  // namespace ckpt::host
