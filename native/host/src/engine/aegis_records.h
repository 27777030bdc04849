#pragma once

#include <memory>
#include <string>

#include "data_cipher.h"

namespace ckpt::host {

/// True if the addon was built with libaegis and the processor has AES instructions: without them AEGIS is slow.
bool AegisAvailable();
/// Name and source version of libaegis.
std::string AegisLibrary();
/// AEGIS-128X4: AEGIS-MAC for signed records, AEAD for encrypted ones. Uses 128 bits of the key.
/// @throws Error ADDON_UNAVAILABLE if AegisAvailable() is false.
std::unique_ptr<RecordProtector> MakeAegisRecords(const TrafficKey& key);

}  // namespace ckpt::host
