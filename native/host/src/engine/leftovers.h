#pragma once

#include <optional>
#include <string>

namespace ckpt::host {

/// True if any process, in any namespace, has the file open or mapped; nothing if the kernel does not report it. The file must
/// be the user's own.
std::optional<bool> InUse(const std::string& path);

/// Removes a file, or a directory with its files. Follows no links, does not enter subdirectories, and never fails.
void RemoveLeftovers(const std::string& path) noexcept;

}  // namespace ckpt::host
