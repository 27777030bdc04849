#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "session_keys.h"

namespace ckpt::host {

/// The pieces of memory that make up one record, in order.
using RecordPieces = std::vector<iovec>;

/// Protects the records of region bytes of one direction. The nonce of a record is its number, so that a record that is
/// changed, repeated, left out, or put in another place is refused.
class RecordProtector {
 public:
  RecordProtector() = default;
  virtual ~RecordProtector() = default;
  RecordProtector(const RecordProtector&) = delete;
  RecordProtector& operator=(const RecordProtector&) = delete;

  /// Makes the tag of the next record, whose bytes stay as they are.
  virtual void Sign(const RecordPieces& record, std::uint8_t* tag) = 0;
  /// @returns false where the tag is not that of the next record.
  virtual bool Verify(const RecordPieces& record, const std::uint8_t* tag) = 0;
  /// Encrypts the next record into `out`, which does not overlap it.
  virtual void Seal(const RecordPieces& record, std::uint8_t* out, std::uint8_t* tag) = 0;
  /// Decrypts the next record in place. @returns false, and what `record` holds is of no use, where the tag is not its own.
  virtual bool Open(const RecordPieces& record, const std::uint8_t* tag) = 0;
};

/// Ciphers that this process can use for region bytes: AES-256-GCM always; AEGIS-128X4 where the addon was built with libaegis
/// and the processor has instructions for AES.
DataCiphers AvailableDataCiphers();
/// The fastest cipher of a set that holds AES-256-GCM.
DataCipher FastestDataCipher(DataCiphers ciphers);
/// The cipher and the library that computes it, with its version, for people.
std::string DataCipherText(DataCipher cipher);

std::unique_ptr<RecordProtector> MakeRecordProtector(DataCipher cipher, const TrafficKey& key);

}  // namespace ckpt::host
