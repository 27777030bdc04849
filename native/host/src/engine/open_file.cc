#include "open_file.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "ckpt/error.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

namespace ckpt::host {
namespace {

// From linux/openat2.h, which is missing on older systems that addons are built on.
struct OpenHow {
  std::uint64_t flags;
  std::uint64_t mode;
  std::uint64_t resolve;
};
constexpr std::uint64_t kNoMagicLinks = 0x02;
constexpr std::uint64_t kNoSymlinks = 0x04;
constexpr std::uint64_t kBeneath = 0x08;

// Does not wait for the other end of a pipe, which is refused.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

std::uint64_t Nanoseconds(const struct timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
}

Error Refused(const std::string& path, const std::string& why) {
  return Error(code::kInvalidArgument, "'" + path + "' " + why).WithFile(path).WithField("files");
}

Error CannotOpen(const std::string& path, int number) {
  if (number == ELOOP || number == EXDEV) {
    return Refused(path, "now leads through a link or out of its directory: it is not opened");
  }
  return Error::System(code::kCheckpointUnreadable, "cannot open '" + path + "'", number).WithFile(path);
}

void CheckRegular(int fd, const std::string& path, struct stat& status) {
  if (::fstat(fd, &status) != 0) {
    throw Error::System(code::kCheckpointUnreadable, "cannot stat '" + path + "'", errno).WithFile(path);
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(code::kCheckpointUnreadable, "'" + path + "' is not a regular file").WithFile(path);
  }
}

/// The result of openat2; empty with errno set if the kernel, or a sandbox around the process, does not have this call.
ScopedFd ByOneCall(int directory, const std::string& path) {
  OpenHow how{};
  how.flags = static_cast<std::uint64_t>(kReadFlags);
  how.resolve = kBeneath | kNoSymlinks | kNoMagicLinks;
  for (int tries = 0;; tries++) {
    const long fd = ::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
    // A concurrent rename elsewhere in the tree makes the kernel ask for a retry.
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || tries == 100) return ScopedFd(static_cast<int>(fd));
  }
}

/// The same, directory by directory: each is opened in the previous one by its plain name, and only if it is not a link.
ScopedFd BySteps(int directory, const std::string& path) {
  ScopedFd held;
  int at = directory;
  for (std::size_t begin = 0;;) {
    const std::size_t end = path.find('/', begin);
    const std::string name = path.substr(begin, end == std::string::npos ? end : end - begin);
    const int flags = end == std::string::npos ? kReadFlags : O_PATH | O_DIRECTORY | O_CLOEXEC;
    ScopedFd next(::openat(at, name.c_str(), flags | O_NOFOLLOW));
    if (!next) {
      // With O_DIRECTORY a link counts as not a directory.
      struct stat status{};
      const int number = errno;
      const bool link =
          number == ENOTDIR && ::fstatat(at, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode);
      errno = link ? ELOOP : number;
      return next;
    }
    if (end == std::string::npos) return next;
    held = std::move(next);
    at = held.get();
    begin = end + 1;
  }
}

/// True for names separated by single slashes, none of them "." or "..".
bool IsPlain(const std::string& path) {
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    if (name.empty() || name == "." || name == "..") return false;
    begin = end + 1;
  }
  return path.find('\0') == std::string::npos;
}

}  // namespace

FileIdentity FileIdentity::Of(const struct stat& status) {
  return {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino),
          static_cast<std::uint64_t>(status.st_size), Nanoseconds(status.st_mtim), Nanoseconds(status.st_ctim)};
}

bool FileIdentity::operator==(const FileIdentity& other) const {
  return device == other.device && inode == other.inode && bytes == other.bytes && modified_ns == other.modified_ns &&
         changed_ns == other.changed_ns;
}

ScopedFd OpenRegular(const std::string& path, struct stat& status) {
  ScopedFd fd(::open(path.c_str(), kReadFlags));
  if (!fd) throw Error::System(code::kCheckpointUnreadable, "cannot open '" + path + "'", errno).WithFile(path);
  CheckRegular(fd.get(), path, status);
  return fd;
}

ScopedFd OpenBeneath(int directory, const std::string& path, bool steps) {
  if (!IsPlain(path)) throw Refused(path, "is not a plain path relative to its directory");
  ScopedFd fd;
  if (!steps) {
    fd = ByOneCall(directory, path);
    // EPERM: older filters of container runtimes answer unknown calls this way.
    steps = !fd && (errno == ENOSYS || errno == EPERM || errno == E2BIG || errno == EINVAL);
  }
  if (steps) fd = BySteps(directory, path);
  if (!fd) throw CannotOpen(path, errno);
  struct stat status{};
  CheckRegular(fd.get(), path, status);
  return fd;
}

}  // namespace ckpt::host
