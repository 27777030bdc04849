#include "data_cipher.h"

#include "aegis_records.h"
#include "libcrypto.h"

namespace ckpt::host {
namespace {

/// AES-256-GCM by OpenSSL's libcrypto.
class GcmRecords final : public RecordProtector {
 public:
  explicit GcmRecords(const TrafficKey& key) : cipher_(key) {}

  void Sign(const RecordPieces& record, std::uint8_t* tag) override {
    cipher_.Begin(true);
    for (const auto& [base, bytes] : record) cipher_.Update(nullptr, static_cast<const std::uint8_t*>(base), bytes);
    cipher_.Finish(tag);
  }

  bool Verify(const RecordPieces& record, const std::uint8_t* tag) override {
    cipher_.Begin(false);
    for (const auto& [base, bytes] : record) cipher_.Update(nullptr, static_cast<const std::uint8_t*>(base), bytes);
    return cipher_.Check(tag);
  }

  void Seal(const RecordPieces& record, std::uint8_t* out, std::uint8_t* tag) override {
    cipher_.Begin(true);
    for (const auto& [base, bytes] : record) {
      cipher_.Update(out, static_cast<const std::uint8_t*>(base), bytes);
      out += bytes;
    }
    cipher_.Finish(tag);
  }

  bool Open(const RecordPieces& record, const std::uint8_t* tag) override {
    cipher_.Begin(false);
    for (const auto& [base, bytes] : record) {
      auto* const at = static_cast<std::uint8_t*>(base);
      cipher_.Update(at, at, bytes);
    }
    return cipher_.Check(tag);
  }

 private:
  RecordCipher cipher_;
};

}  // namespace

DataCiphers AvailableDataCiphers() {
  const auto gcm = static_cast<DataCiphers>(DataCipher::kAes256Gcm);
  return AegisAvailable() ? static_cast<DataCiphers>(gcm | static_cast<DataCiphers>(DataCipher::kAegis128x4)) : gcm;
}

DataCipher FastestDataCipher(DataCiphers ciphers) {
  const bool aegis = (ciphers & static_cast<DataCiphers>(DataCipher::kAegis128x4)) != 0;
  return aegis ? DataCipher::kAegis128x4 : DataCipher::kAes256Gcm;
}

std::string DataCipherText(DataCipher cipher) {
  if (cipher == DataCipher::kAegis128x4) return "AEGIS-128X4 by " + AegisLibrary();
  return "AES-256-GCM by " + Libcrypto::Version();
}

std::unique_ptr<RecordProtector> MakeRecordProtector(DataCipher cipher, const TrafficKey& key) {
  if (cipher == DataCipher::kAegis128x4) return MakeAegisRecords(key);
  return std::make_unique<GcmRecords>(key);
}

}  // namespace ckpt::host
