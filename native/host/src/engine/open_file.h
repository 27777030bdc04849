#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>

#include "ckpt/fd.h"

namespace ckpt::host {

/// Distinguishes a file's content from any other (FileIdentity of @ckpt/contract).
struct FileIdentity {
  std::uint64_t device;
  std::uint64_t inode;
  std::uint64_t bytes;
  /// Nanoseconds since 1970, as a 64-bit two's complement.
  std::uint64_t modified_ns;
  std::uint64_t changed_ns;

  static FileIdentity Of(const struct stat& status);
  bool operator==(const FileIdentity& other) const;
  bool operator!=(const FileIdentity& other) const { return !(*this == other); }
};

/// A file to read: opened before, or opened here by its path, in which case it must be unchanged.
struct FileToRead {
  std::string path;
  /// Open descriptor, which its owner keeps open; -1 for none.
  int descriptor = -1;
  std::optional<FileIdentity> identity;
};

/// Opens a regular file to read it; anything else is refused without waiting. Stores its status in `status`.
/// @throws Error CHECKPOINT_UNREADABLE naming the file.
ScopedFd OpenRegular(const std::string& path, struct stat& status);

/// Opens a regular file by its path, relative to the directory. Neither `..` nor links are followed, so that concurrent changes
/// of the path cannot lead out of the directory. Uses openat2 if the kernel has it, otherwise (or with `steps`) opens directory
/// by directory.
/// @throws Error INVALID_ARGUMENT for a path that would lead out or contains a link, CHECKPOINT_UNREADABLE otherwise; both name
/// the file.
ScopedFd OpenBeneath(int directory, const std::string& path, bool steps = false);

}  // namespace ckpt::host
