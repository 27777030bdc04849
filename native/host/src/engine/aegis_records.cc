#include "aegis_records.h"

#include "ckpt/error.h"

#ifdef CKPT_AEGIS_VERSION

#include <aegis.h>
#include <aegis128x4.h>

#include <algorithm>
#include <cstring>

#include "prefetched.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace ckpt::host {
namespace {

/// Bytes that are authenticated at once, and that are prefetched ahead.
constexpr std::size_t kStepBytes = 4096;
constexpr std::size_t kAheadBytes = 4096;

bool HasAesInstructions() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") != 0;
#elif defined(__aarch64__)
  return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
  return false;
#endif
}

class AegisRecords final : public RecordProtector {
 public:
  explicit AegisRecords(const TrafficKey& key) {
    std::copy_n(key.key.begin(), key_.size(), key_.begin());
    std::copy(key.nonce.begin(), key.nonce.end(), nonce_.begin());
  }

  void Sign(const RecordPieces& record, std::uint8_t* tag) override {
    auto state = Absorbed(record);
    Require(aegis128x4_mac_final(&state, tag, kTagBytes) == 0);
  }

  bool Verify(const RecordPieces& record, const std::uint8_t* tag) override {
    auto state = Absorbed(record);
    return aegis128x4_mac_verify(&state, tag, kTagBytes) == 0;
  }

  void Seal(const RecordPieces& record, std::uint8_t* out, std::uint8_t* tag) override {
    const auto nonce = NextNonce();
    aegis128x4_state state;
    aegis128x4_state_init(&state, nullptr, 0, nonce.data(), key_.data());
    for (const auto& [base, bytes] : record) {
      ForEachPrefetched(static_cast<const std::uint8_t*>(base), bytes, kStepBytes, kAheadBytes,
                        [&](const std::uint8_t* piece, std::size_t count) {
                          Require(aegis128x4_state_encrypt_update(&state, out, piece, count) == 0);
                          out += count;
                        });
    }
    Require(aegis128x4_state_encrypt_final(&state, tag, kTagBytes) == 0);
  }

  bool Open(const RecordPieces& record, const std::uint8_t* tag) override {
    const auto nonce = NextNonce();
    aegis128x4_state state;
    aegis128x4_state_init(&state, nullptr, 0, nonce.data(), key_.data());
    for (const auto& [base, bytes] : record) {
      auto* const at = static_cast<std::uint8_t*>(base);
      Require(aegis128x4_state_decrypt_update(&state, at, at, bytes) == 0);
    }
    return aegis128x4_state_decrypt_final(&state, tag, kTagBytes) == 0;
  }

 private:
  using Nonce = std::array<std::uint8_t, 16>;

  static void Require(bool well) {
    if (!well) throw Error(code::kNativeFailure, "libaegis: a record cannot be protected");
  }

  /// Numbers are never reused: a connection never has 2^64 records.
  Nonce NextNonce() {
    auto nonce = nonce_;
    for (std::size_t i = 0; i < sizeof number_; ++i)
      nonce[nonce.size() - 1 - i] ^= static_cast<std::uint8_t>(number_ >> (8 * i));
    ++number_;
    return nonce;
  }

  aegis128x4_mac_state Absorbed(const RecordPieces& record) {
    const auto nonce = NextNonce();
    aegis128x4_mac_state state;
    aegis128x4_mac_init(&state, key_.data(), nonce.data());
    for (const auto& [base, bytes] : record) {
      ForEachPrefetched(
          static_cast<const std::uint8_t*>(base), bytes, kStepBytes, kAheadBytes,
          [&](const std::uint8_t* piece, std::size_t count) { Require(aegis128x4_mac_update(&state, piece, count) == 0); });
    }
    return state;
  }

  std::array<std::uint8_t, 16> key_;
  Nonce nonce_{};
  std::uint64_t number_ = 0;
};

}  // namespace

bool AegisAvailable() {
  // Selects the instructions for this processor; not thread-safe itself.
  static const bool available = HasAesInstructions() && aegis_init() == 0;
  return available;
}

std::string AegisLibrary() { return "libaegis (pyaegis " CKPT_AEGIS_VERSION ")"; }

std::unique_ptr<RecordProtector> MakeAegisRecords(const TrafficKey& key) {
  if (!AegisAvailable()) throw Error(code::kAddonUnavailable, "this processor has no instructions for AES").WithField("cipher");
  return std::make_unique<AegisRecords>(key);
}

}  // namespace ckpt::host

#else

namespace ckpt::host {

bool AegisAvailable() { return false; }

std::string AegisLibrary() { return "no library"; }

std::unique_ptr<RecordProtector> MakeAegisRecords(const TrafficKey&) {
  throw Error(code::kAddonUnavailable, "this addon was built without libaegis").WithField("cipher");
}

}  // namespace ckpt::host

#endif
