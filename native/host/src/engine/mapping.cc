#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <limits>
#include <utility>

#include "available.h"
#include "ckpt/error.h"
#include "ckpt/fd.h"
#include "limit.h"

namespace ckpt::host {
namespace {

std::string CheckName(const std::string& name) {
  if (name.empty() || name.size() > NAME_MAX || name == "." || name == ".." || name.find('/') != std::string::npos) {
    throw Error(code::kInvalidArgument, "'" + name + "' is not a name for shared memory: 1 to 255 bytes without a slash")
        .WithField("name");
  }
  return "/" + name;
}

/// mmap at an address at which memory of 2 MiB and more can have huge pages: reserves one huge page more than needed and unmaps
/// the excess.
void* MapAligned(std::size_t bytes, int protection, int flags, int fd) {
  if (bytes < Mapping::kHugePageBytes || bytes > std::numeric_limits<std::size_t>::max() / 2) {
    return ::mmap(nullptr, bytes, protection, flags, fd, 0);
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t length = (bytes + page - 1) / page * page;
  const std::size_t room = length + Mapping::kHugePageBytes;
  void* whole = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED) return MAP_FAILED;
  auto* start = static_cast<std::byte*>(whole);
  const auto over = reinterpret_cast<std::uintptr_t>(start) % Mapping::kHugePageBytes;
  const std::size_t head = over == 0 ? 0 : Mapping::kHugePageBytes - over;
  void* address = ::mmap(start + head, bytes, protection, flags | MAP_FIXED, fd, 0);
  const int number = errno;
  if (address == MAP_FAILED) {
    ::munmap(whole, room);
    errno = number;
    return MAP_FAILED;
  }
  if (head != 0) ::munmap(start, head);
  if (const std::size_t tail = room - head - length; tail != 0) ::munmap(start + head + length, tail);
  return address;
}

ScopedMmap Map(std::size_t bytes, int protection, int flags, int fd, const std::string& what) {
  void* address = MapAligned(bytes, protection, flags, fd);
  if (address == MAP_FAILED) {
    const int number = errno;
    throw Error::System(code::kOutOfMemory, "cannot map " + std::to_string(bytes) + " bytes of " + what, number);
  }
  return ScopedMmap(address, bytes);
}

/// "/dev/shm is 64.0 MiB, 1.0 MiB of it free".
std::string VolumeText(const struct statvfs& volume) {
  return "/dev/shm is " + SizeText(volume.f_blocks * volume.f_frsize) + ", " + SizeText(volume.f_bavail * volume.f_frsize) +
         " of it free";
}

/// A new file of `bytes` bytes in memory that no directory lists. If a system call filter or an old kernel does not provide
/// memfd_create, a file in /dev/shm that never had a name. @throws Error OUT_OF_MEMORY, NATIVE_FAILURE.
ScopedFd NamelessFile(std::size_t bytes) {
  ScopedFd fd(::memfd_create("ckpt", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  int number = fd ? 0 : errno;
  const bool refused = number == EPERM || number == ENOSYS || number == EACCES;
  if (refused) fd = ScopedFd(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd) {
    const bool full = number == ENOMEM || number == ENFILE || number == EMFILE;
    throw Error::System(full ? code::kOutOfMemory : code::kNativeFailure,
                        "cannot create a file in memory (by memfd_create, or by O_TMPFILE in /dev/shm)", number);
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    throw Error::System(code::kOutOfMemory, "cannot size shareable memory to " + std::to_string(bytes) + " bytes", errno);
  }
  // Unlike a memfd, /dev/shm has its own size limit; a write to a page that it cannot provide would kill the process.
  if (refused && (number = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes))) != 0) {
    struct statvfs volume{};
    const std::string size = ::fstatvfs(fd.get(), &volume) == 0 ? ": " + VolumeText(volume) : "";
    throw Error::System(code::kOutOfMemory, "cannot take " + std::to_string(bytes) + " bytes of /dev/shm" + size, number);
  }
  // Other processes map it: none of them may truncate it while the others use it.
  ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return fd;
}

}  // namespace

Mapping::Mapping(Kind kind, std::string name, ScopedMmap memory, ScopedFd fd, std::optional<Identity> identity)
    : kind_(kind),
      name_(std::move(name)),
      memory_(std::move(memory)),
      fd_(std::move(fd)),
      identity_(identity),
      pages_(identity_ ? PageWatch(memory_.data(), memory_.size()) : PageWatch()) {}

std::shared_ptr<Mapping> Mapping::Anonymous(std::size_t bytes) {
  RequireAvailable(bytes, Use::kPrivate);
  if (bytes > std::numeric_limits<std::size_t>::max() / 2)
    throw Error(code::kOutOfMemory, "more bytes than an address space has");
  ScopedMmap memory = Map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "anonymous memory");
  if (bytes >= kHugePageBytes) ::madvise(memory.data(), bytes, MADV_HUGEPAGE);
  return std::make_shared<Mapping>(Kind::kAnonymous, "", std::move(memory));
}

std::shared_ptr<Mapping> Mapping::Shareable(std::size_t bytes) {
  RequireAvailable(bytes, Use::kShared);
  ScopedFd fd = NamelessFile(bytes);
  ScopedMmap memory = Map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), "shareable memory");
  ::madvise(memory.data(), bytes, MADV_HUGEPAGE);
  std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd.get());
  const Identity identity = IdentityOf(fd.get(), path);
  return std::make_shared<Mapping>(Kind::kAnonymous, std::move(path), std::move(memory), std::move(fd), identity);
}

std::shared_ptr<Mapping> Mapping::CreateShared(const std::string& name, std::size_t bytes) {
  const std::string path = CheckName(name);
  RequireAvailable(bytes, Use::kShared);
  const ScopedFd fd(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    const int number = errno;
    const bool full = number == ENOSPC || number == ENOMEM;
    throw Error::System(full ? code::kOutOfMemory : code::kInvalidArgument, "cannot create shared memory '" + name + "'",
                        number)
        .WithFile("/dev/shm" + path)
        .WithField("name");
  }
  try {
    struct statvfs volume{};
    if (::fstatvfs(fd.get(), &volume) == 0 && volume.f_blocks != 0 && volume.f_bavail * volume.f_frsize < bytes) {
      throw Error::System(code::kOutOfMemory, "cannot take " + std::to_string(bytes) + " bytes: " + VolumeText(volume), ENOSPC)
          .WithFile("/dev/shm" + path);
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
      throw Error::System(code::kOutOfMemory, "cannot size shared memory '" + name + "' to " + std::to_string(bytes) + " bytes",
                          errno)
          .WithFile("/dev/shm" + path);
    }
    ScopedMmap memory = Map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), "shared memory '" + name + "'");
    ::madvise(memory.data(), bytes, MADV_HUGEPAGE);
    const Identity identity = IdentityOf(fd.get(), "/dev/shm" + path);
    return std::make_shared<Mapping>(Kind::kShared, name, std::move(memory), ScopedFd(), identity);
  } catch (...) {
    ::shm_unlink(path.c_str());
    throw;
  }
}

std::shared_ptr<Mapping> Mapping::File(const std::string& path, bool writable) {
  // Does not wait for the other end of a pipe, which is refused below.
  const int how = O_CLOEXEC | O_NONBLOCK;
  ScopedFd fd(::open(path.c_str(), O_RDONLY | how));
  if (!fd) throw Error::System(code::kCheckpointUnreadable, "cannot open '" + path + "'", errno).WithFile(path);
  const Identity identity = IdentityOf(fd.get(), path);
  if (!S_ISREG(identity.mode)) throw Error(code::kCheckpointUnreadable, "'" + path + "' is not a regular file").WithFile(path);
  if (identity.bytes == 0) throw Error(code::kCheckpointUnreadable, "'" + path + "' is empty").WithFile(path);
  bool shared = false;
  if (writable) {
    // Exactly the inspected file, whatever the path means by now.
    ScopedFd again(::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDWR | how));
    shared = static_cast<bool>(again);
    if (shared) fd = std::move(again);
  }
  auto mapping = Opened(Kind::kFile, path, std::move(fd), shared ? Access::kWrite : Access::kPrivate);
  mapping->MustStay();
  return mapping;
}

std::shared_ptr<Mapping> Mapping::Opened(Kind kind, const std::string& name, ScopedFd fd, Access access) {
  const Identity identity = IdentityOf(fd.get(), name);
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = access == Access::kPrivate ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
  ScopedMmap memory = Map(static_cast<std::size_t>(identity.bytes), protection, flags, fd.get(), "'" + name + "'");
  return std::make_shared<Mapping>(kind, name, std::move(memory), std::move(fd), identity);
}

void Mapping::CheckIntact() const {
  if (!identity_) return;
  const std::string path = kind_ == Kind::kShared ? "/dev/shm/" + name_ : name_;
  const auto changed = [&path](const std::string& how) {
    throw Error(code::kMemoryChanged, path + " " + how + ": register or share it again").WithFile(path);
  };
  if (pages_.lost()) changed("was truncated while it was in use");
  if (!fd_) return;
  const Identity now = IdentityOf(fd_.get(), path);
  if (now.bytes < size()) changed("has " + std::to_string(now.bytes) + " bytes now, not " + std::to_string(size()));
  if (!must_stay_) return;
  // The mapping of a file that was removed or replaced under its name is unchanged; its time of change is not meaningful any
  // more.
  const bool touched = now.changed != identity_->changed && now.links == identity_->links;
  if (now.modified != identity_->modified || touched) changed("was written to after it was mapped");
}

bool Mapping::locked() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return locked_;
}

std::string Mapping::lock_error() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return lock_error_;
}

void Mapping::Unlink() {
  if (kind_ == Kind::kAnonymous) throw Error(code::kInvalidState, "anonymous memory has no name to remove");
  const std::string path = kind_ == Kind::kShared ? "/dev/shm/" + name_ : name_;
  if (kind_ == Kind::kFile) {
    char resolved[PATH_MAX];
    if (::realpath(path.c_str(), resolved) == nullptr) {
      if (errno == ENOENT) return;
      throw Error::System(code::kNativeFailure, "cannot resolve '" + path + "'", errno).WithFile(path);
    }
    if (std::string(resolved).rfind("/dev/shm/", 0) != 0) {
      throw Error(code::kInvalidState, "'" + path + "' is not in /dev/shm: only files there are removed").WithFile(path);
    }
  }
  const int result = kind_ == Kind::kShared ? ::shm_unlink(("/" + name_).c_str()) : ::unlink(path.c_str());
  if (result != 0 && errno != ENOENT)
    throw Error::System(code::kNativeFailure, "cannot remove '" + path + "'", errno).WithFile(path);
}

}  // namespace ckpt::host
