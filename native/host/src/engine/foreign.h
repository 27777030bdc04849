#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "mapping.h"

namespace ckpt::host {

/// An object of /dev/shm, by its path below it.
struct ShmPlace {
  std::string path;
};

/// A descriptor of another process. The process is identified by more than its id: also by its PID namespace and its start time
/// (field 22 of proc_pid_stat(5)).
struct DescriptorPlace {
  std::uint64_t pid = 0;
  std::string pid_namespace;
  std::string start;
  std::uint64_t descriptor = 0;
};

using ForeignPlace = std::variant<ShmPlace, DescriptorPlace>;

/// Identity of a memory as its owner states it.
struct ForeignIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  /// For a file that is used in place: the time of its last write, which must not change.
  std::optional<std::int64_t> modified;
};

/// Maps memory of another process of this user. Nothing is opened for reading or writing before the opened object is known to
/// be the offered one: a regular file of /dev/shm or a memfd, of this user, with the offered device, inode and size. Without
/// `writable` it is opened and mapped only for reading.
///
/// @param what names it in errors: "segment 2 of rank 1".
/// @throws Error MEMORY_REFUSED naming the field if it must not be mapped, MEMORY_CHANGED if another object (or none, or no
/// such process) is there now, OUT_OF_MEMORY.
std::shared_ptr<Mapping> OpenForeign(const ForeignPlace& place, const ForeignIdentity& offered, bool writable,
                                     const std::string& what);

/// POSIX shared memory of this user by name only, without an identity from its owner.
/// @throws Error INVALID_ARGUMENT if the name is invalid or does not exist, MEMORY_REFUSED, OUT_OF_MEMORY.
std::shared_ptr<Mapping> OpenShared(const std::string& name, bool writable);

}  // namespace ckpt::host
