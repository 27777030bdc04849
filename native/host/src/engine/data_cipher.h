#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "session_keys.h"

namespace ckpt::host {

/// The pieces of memory that form one record, in order.
using RecordPieces = std::vector<iovec>;

/// Protects the records of region bytes of one direction. A record's nonce is its number, so that records that were changed,
/// repeated, omitted or moved are refused.
class RecordProtector {
 public:
  RecordProtector() = default;
  virtual ~RecordProtector() = default;
  RecordProtector(const RecordProtector&) = delete;
  RecordProtector& operator=(const RecordProtector&) = delete;

  /// Computes the tag of the next record, whose bytes are not changed.
  virtual void Sign(const RecordPieces& record, std::uint8_t* tag) = 0;
  /// @returns false if the tag is not that of the next record.
  virtual bool Verify(const RecordPieces& record, const std::uint8_t* tag) = 0;
  /// Encrypts the next record into `out`, which must not overlap it.
  virtual void Seal(const RecordPieces& record, std::uint8_t* out, std::uint8_t* tag) = 0;
  /// Decrypts the next record in place. @returns false if the tag does not match; `record` must not be used then.
  virtual bool Open(const RecordPieces& record, const std::uint8_t* tag) = 0;
};

/// Ciphers that this process can use for region bytes: AES-256-GCM always; AEGIS-128X4 if the addon was built with libaegis and
/// the processor has AES instructions.
DataCiphers AvailableDataCiphers();
/// The fastest cipher of a set that contains AES-256-GCM.
DataCipher FastestDataCipher(DataCiphers ciphers);
/// The cipher and the library that computes it with its version, as readable text.
std::string DataCipherText(DataCipher cipher);

std::unique_ptr<RecordProtector> MakeRecordProtector(DataCipher cipher, const TrafficKey& key);

}  // namespace ckpt::host
