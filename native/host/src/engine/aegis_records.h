#pragma once

#include <memory>
#include <string>

#include "data_cipher.h"

namespace ckpt::host {

/// True where the addon was built with libaegis and the processor has instructions for AES: without them AEGIS is slow.
bool AegisAvailable();
/// libaegis with the version of its source.
std::string AegisLibrary();
/// AEGIS-128X4: AEGIS-MAC for records that are signed, AEAD for those that are sealed. Uses 128 bits of the key.
/// @throws Error ADDON_UNAVAILABLE where AegisAvailable() is false.
std::unique_ptr<RecordProtector> MakeAegisRecords(const TrafficKey& key);

}  // namespace ckpt::host
