#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "mapping.h"

namespace ckpt::host {

/// An object of /dev/shm by its path beneath it.
struct ShmPlace {
  std::string path;
};

/// A descriptor of another process, which is told by more than its id: by its PID namespace and when it started (field 22 of
/// proc_pid_stat(5)).
struct DescriptorPlace {
  std::uint64_t pid = 0;
  std::string pid_namespace;
  std::string start;
  std::uint64_t descriptor = 0;
};

using ForeignPlace = std::variant<ShmPlace, DescriptorPlace>;

/// What its owner says that memory is.
struct ForeignIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  /// Of a file that is used in place: when it was written to last. It must stay so.
  std::optional<std::int64_t> modified;
};

/// Maps memory of another process of this user. Nothing is opened for reading or writing before the opened object is known to
/// be what was offered: a regular file of /dev/shm or a memfd, of this user, of the offered device, inode and size. Without
/// `writable` it is opened and mapped for reading alone.
///
/// @param what names it in errors: "segment 2 of rank 1".
/// @throws Error MEMORY_REFUSED naming the field where it is nothing that may be mapped, MEMORY_CHANGED where another object
/// (or none, or no such process) is there now, OUT_OF_MEMORY.
std::shared_ptr<Mapping> OpenForeign(const ForeignPlace& place, const ForeignIdentity& offered, bool writable,
                                     const std::string& what);

/// POSIX shared memory of this user by name alone, where nobody said what it is.
/// @throws Error INVALID_ARGUMENT when the name is none or nothing is there, MEMORY_REFUSED, OUT_OF_MEMORY.
std::shared_ptr<Mapping> OpenShared(const std::string& name, bool writable);

}  // namespace ckpt::host
