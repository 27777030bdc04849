#pragma once

#include <optional>
#include <string>

namespace ckpt::host {

/// True if any process, of whichever namespace, has the file open or mapped; nothing where the kernel does not tell. The file
/// must be the user's own.
std::optional<bool> InUse(const std::string& path);

/// Removes a file, or a directory with the files in it; follows no link, descends into no further directory, and never fails.
void RemoveLeftovers(const std::string& path) noexcept;

}  // namespace ckpt::host
