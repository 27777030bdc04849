#include "identity.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "ckpt/error.h"
#include "ckpt/fd.h"

namespace ckpt::host {
namespace {

std::int64_t Nanoseconds(const struct timespec& time) { return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

Identity IdentityOf(int fd, const std::string& what) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) throw Error::System(code::kNativeFailure, "fstat of " + what, errno).WithFile(what);
  Identity identity;
  identity.device = status.st_dev;
  identity.inode = status.st_ino;
  identity.bytes = static_cast<std::uint64_t>(status.st_size);
  identity.links = status.st_nlink;
  identity.owner = status.st_uid;
  identity.mode = status.st_mode;
  identity.modified = Nanoseconds(status.st_mtim);
  identity.changed = Nanoseconds(status.st_ctim);
  return identity;
}

std::uint64_t ShmDevice() {
  struct stat status{};
  if (::stat("/dev/shm", &status) != 0) throw Error::System(code::kUnsupported, "cannot examine /dev/shm", errno);
  return status.st_dev;
}

std::uint64_t MemfdDevice() {
  const ScopedFd fd(::memfd_create("ckpt-device", MFD_CLOEXEC));
  if (!fd) throw Error::System(code::kUnsupported, "memfd_create", errno);
  return IdentityOf(fd.get(), "a memfd").device;
}

}  // namespace ckpt::host
