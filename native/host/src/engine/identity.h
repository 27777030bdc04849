#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ckpt::host {

/// What an open file is, whatever it is called: fstat(2) of a descriptor. Device and inode name the object for as long as
/// somebody holds it; the times tell whether it was written to since.
struct Identity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::uint64_t links = 0;
  uid_t owner = 0;
  mode_t mode = 0;
  /// Nanoseconds since the epoch. A write through a mapping changes neither.
  std::int64_t modified = 0;
  std::int64_t changed = 0;

  bool SameObject(const Identity& other) const { return device == other.device && inode == other.inode; }
  /// "27:4711": device and inode.
  std::string Name() const { return std::to_string(device) + ":" + std::to_string(inode); }
};

/// @throws Error NATIVE_FAILURE naming `what`.
Identity IdentityOf(int fd, const std::string& what);

/// Device of the objects in /dev/shm. @throws Error UNSUPPORTED where there is none.
std::uint64_t ShmDevice();
/// Device of memfds. @throws Error UNSUPPORTED where the kernel has none.
std::uint64_t MemfdDevice();

}  // namespace ckpt::host
