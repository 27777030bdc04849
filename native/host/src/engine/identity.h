#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ckpt::host {

/// Identity of an open file, independent of its name: fstat(2) of a descriptor. Device and inode identify the object while it
/// is held open; the times show whether it was written to since.
struct Identity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::uint64_t links = 0;
  uid_t owner = 0;
  mode_t mode = 0;
  /// Nanoseconds since the epoch. A write through a mapping changes neither time.
  std::int64_t modified = 0;
  std::int64_t changed = 0;

  bool SameObject(const Identity& other) const { return device == other.device && inode == other.inode; }
  /// "27:4711": device and inode.
  std::string Name() const { return std::to_string(device) + ":" + std::to_string(inode); }
};

/// @throws Error NATIVE_FAILURE naming `what`.
Identity IdentityOf(int fd, const std::string& what);

/// Device of the objects in /dev/shm. @throws Error UNSUPPORTED if there is none.
std::uint64_t ShmDevice();
/// Device of memfds. @throws Error UNSUPPORTED if the kernel has none.
std::uint64_t MemfdDevice();

}  // namespace ckpt::host
