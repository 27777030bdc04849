#include "foreign.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>
#include <vector>

#include "ckpt/error.h"
#include "ckpt/fd.h"
#include "identity.h"

namespace ckpt::host {
namespace {

constexpr int kLook = O_PATH | O_CLOEXEC;

[[noreturn]] void Refuse(const std::string& what, const std::string& why, const char* field) {
  throw Error(code::kMemoryRefused, what + ": " + why).WithField(field);
}

[[noreturn]] void Changed(const std::string& what, const std::string& why, const std::string& path) {
  throw Error(code::kMemoryChanged, what + ": " + why).WithFile(path);
}

/// Text of a symbolic link below a directory; empty if there is none.
std::string LinkText(int directory, const char* name) {
  std::array<char, PATH_MAX> text{};
  const ssize_t length = ::readlinkat(directory, name, text.data(), text.size());
  return length <= 0 ? "" : std::string(text.data(), static_cast<std::size_t>(length));
}

/// Components of a path below /dev/shm. @throws Error MEMORY_REFUSED if it leads out.
std::vector<std::string> StepsOf(const std::string& path, const std::string& what) {
  std::vector<std::string> steps;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    std::string step = path.substr(begin, end - begin);
    if (step.empty() || step == "." || step == ".." || step.size() > NAME_MAX || step.find('\0') != std::string::npos) {
      Refuse(what, "'" + path + "' is not a path below /dev/shm", "path");
    }
    steps.push_back(std::move(step));
    begin = end + 1;
  }
  return steps;
}

/// Inspects an object of /dev/shm without opening it; no component follows a link.
ScopedFd Look(const ShmPlace& place, const std::string& what) {
  const std::vector<std::string> steps = StepsOf(place.path, what);
  const std::string path = "/dev/shm/" + place.path;
  ScopedFd at(::open("/dev/shm", kLook | O_DIRECTORY));
  for (std::size_t i = 0; at && i < steps.size(); i++) {
    const int directory = i + 1 < steps.size() ? O_DIRECTORY : 0;
    at = ScopedFd(::openat(at.get(), steps[i].c_str(), kLook | O_NOFOLLOW | directory));
  }
  if (at) return at;
  const int number = errno;
  if (number == ENOENT || number == ENOTDIR || number == ELOOP) {
    Changed(what, path + " is not there (any more): " + Error::Describe(number), path);
  }
  throw Error::System(code::kMemoryRefused, what + ": cannot examine " + path, number).WithFile(path).WithField("path");
}

/// @throws Error MEMORY_CHANGED unless the process behind /proc/PID (`directory`) is the one that sent the greeting.
void CheckStart(int directory, const DescriptorPlace& place, const std::string& what) {
  const std::string path = "/proc/" + std::to_string(place.pid);
  const ScopedFd file(::openat(directory, "stat", O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> text{};
  const ssize_t length = file ? ::read(file.get(), text.data(), text.size()) : -1;
  if (length <= 0) Changed(what, "process " + std::to_string(place.pid) + " has ended", path);
  // The name before the fields may contain anything, including spaces and brackets.
  const std::string line(text.data(), static_cast<std::size_t>(length));
  std::size_t at = line.rfind(')');
  for (int field = 2; at != std::string::npos && field < 22; field++) at = line.find(' ', at + 1);
  if (at == std::string::npos) Changed(what, path + "/stat is not as expected", path);
  const std::string start = line.substr(at + 1, line.find(' ', at + 1) - at - 1);
  if (start == place.start) return;
  Changed(what,
          "process " + std::to_string(place.pid) + " started at " + start + ", the one that was greeted at " + place.start,
          path);
}

/// Inspects a descriptor of a process without opening it.
ScopedFd Look(const DescriptorPlace& place, const std::string& what) {
  const std::string path = "/proc/" + std::to_string(place.pid) + "/fd/" + std::to_string(place.descriptor);
  if (place.pid == 0 || place.pid > INT_MAX) Refuse(what, "there is no process " + std::to_string(place.pid), "pid");
  if (place.descriptor > INT_MAX) Refuse(what, "there is no descriptor " + std::to_string(place.descriptor), "descriptor");
  const ScopedFd proc(::open("/proc", kLook | O_DIRECTORY));
  struct statfs volume{};
  if (!proc || ::fstatfs(proc.get(), &volume) != 0 || volume.f_type != PROC_SUPER_MAGIC) {
    Refuse(what, "/proc is not a proc file system", "pid");
  }
  // In another namespace the numbers mean other processes, and /proc may be that of a third namespace.
  if (LinkText(proc.get(), "self") != std::to_string(::getpid())) Refuse(what, "/proc is that of another PID namespace", "pid");
  const std::string own = LinkText(proc.get(), "self/ns/pid");
  if (own != "pid:[" + place.pid_namespace + "]") {
    Refuse(what,
           "process " + std::to_string(place.pid) + " is in PID namespace " + place.pid_namespace + ", this one in " + own,
           "process");
  }
  const ScopedFd directory(::openat(proc.get(), std::to_string(place.pid).c_str(), kLook | O_DIRECTORY));
  if (!directory) Changed(what, "process " + std::to_string(place.pid) + " has ended", path);
  CheckStart(directory.get(), place, what);
  ScopedFd fd(::openat(directory.get(), ("fd/" + std::to_string(place.descriptor)).c_str(), kLook));
  const int number = errno;
  CheckStart(directory.get(), place, what);
  if (fd) return fd;
  if (number == ENOENT) Changed(what, path + " is not open (any more)", path);
  throw Error::System(code::kMemoryRefused, what + ": cannot examine " + path, number).WithFile(path).WithField("descriptor");
}

const char* TypeName(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISLNK(mode)) return "a symbolic link";
  return "no regular file";
}

/// Checks that the object may be mapped at all.
void CheckKind(int fd, const Identity& found, bool by_name, const std::string& what, const std::string& path) {
  const auto refuse = [&](const std::string& why, const char* field) {
    throw Error(code::kMemoryRefused, what + ": " + path + " " + why).WithFile(path).WithField(field);
  };
  if (!S_ISREG(found.mode)) refuse(std::string("is ") + TypeName(found.mode), "path");
  const bool in_shm = found.device == ShmDevice();
  if (!in_shm && (by_name || found.device != MemfdDevice())) {
    refuse("is neither in /dev/shm nor a memfd (device " + std::to_string(found.device) + ")", "path");
  }
  struct statfs volume{};
  if (::fstatfs(fd, &volume) != 0 || volume.f_type != TMPFS_MAGIC) refuse("is on no file system in memory", "path");
  if (found.owner != ::geteuid()) {
    refuse("belongs to user " + std::to_string(found.owner) + ", not " + std::to_string(::geteuid()), "owner");
  }
}

/// Checks that it is the offered object.
void CheckOffered(const Identity& found, const ForeignIdentity& offered, const std::string& what, const std::string& path) {
  if (found.device != offered.device || found.inode != offered.inode) {
    Changed(what,
            path + " is object " + found.Name() + " now, not " + std::to_string(offered.device) + ":" +
                std::to_string(offered.inode) + ": it was replaced",
            path);
  }
  if (found.bytes != offered.bytes) {
    Changed(what, path + " has " + std::to_string(found.bytes) + " bytes, not " + std::to_string(offered.bytes), path);
  }
  if (offered.modified && *offered.modified != found.modified) {
    Changed(what, path + " was written to after it was registered", path);
  }
}

/// Name for an object that was found by a descriptor number: the file's own path if it has one, which is more informative.
std::string NameOf(int seen, const std::string& path) {
  static const std::string shm = "/dev/shm/", removed = " (deleted)";
  std::string name = LinkText(AT_FDCWD, ("/proc/self/fd/" + std::to_string(seen)).c_str());
  if (name.compare(0, shm.size(), shm) != 0) return path;
  const bool gone = name.size() > removed.size() && name.compare(name.size() - removed.size(), removed.size(), removed) == 0;
  struct stat status{};
  if (gone && ::fstat(seen, &status) == 0 && status.st_nlink == 0) name.resize(name.size() - removed.size());
  return name;
}

/// Opens exactly the inspected object, whatever its path means by now.
ScopedFd Reopen(int seen, bool writable, const std::string& what, const std::string& path) {
  const std::string again = "/proc/self/fd/" + std::to_string(seen);
  ScopedFd fd(::open(again.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
  if (fd) return fd;
  throw Error::System(code::kMemoryRefused, what + ": cannot open " + path + (writable ? " for writing" : ""), errno)
      .WithFile(path)
      .WithField("path");
}

}  // namespace

std::shared_ptr<Mapping> OpenForeign(const ForeignPlace& place, const ForeignIdentity& offered, bool writable,
                                     const std::string& what) {
  const auto* by_name = std::get_if<ShmPlace>(&place);
  const ScopedFd seen = std::visit([&what](const auto& one) { return Look(one, what); }, place);
  std::string path;
  if (by_name != nullptr) {
    path = "/dev/shm/" + by_name->path;
  } else {
    const auto& one = std::get<DescriptorPlace>(place);
    path = "/proc/" + std::to_string(one.pid) + "/fd/" + std::to_string(one.descriptor);
    path = NameOf(seen.get(), path);
  }
  const Identity found = IdentityOf(seen.get(), path);
  CheckKind(seen.get(), found, by_name != nullptr, what, path);
  CheckOffered(found, offered, what, path);
  if (found.bytes == 0) Refuse(what, path + " is empty", "bytes");
  auto mapping = Mapping::Opened(Mapping::Kind::kFile, path, Reopen(seen.get(), writable, what, path),
                                 writable ? Mapping::Access::kWrite : Mapping::Access::kRead);
  // It may have been truncated in between.
  CheckOffered(*mapping->identity(), offered, what, path);
  if (offered.modified) mapping->MustStay();
  return mapping;
}

std::shared_ptr<Mapping> OpenShared(const std::string& name, bool writable) {
  const std::string path = "/dev/shm/" + name;
  const auto absent = [&](const std::string& why) {
    throw Error(code::kInvalidArgument, "cannot open shared memory '" + name + "': " + why).WithFile(path).WithField("name");
  };
  if (name.empty() || name.find('/') != std::string::npos) absent("the name must be one of a file in /dev/shm");
  const std::string what = "shared memory '" + name + "'";
  ScopedFd seen;
  try {
    seen = Look(ShmPlace{name}, what);
  } catch (const Error& error) {
    absent(error.what());
  }
  const Identity found = IdentityOf(seen.get(), path);
  CheckKind(seen.get(), found, true, what, path);
  if (found.bytes == 0) absent("it is empty");
  return Mapping::Opened(Mapping::Kind::kShared, name, Reopen(seen.get(), writable, what, path),
                         writable ? Mapping::Access::kWrite : Mapping::Access::kRead);
}

}  // namespace ckpt::host
