#include "leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>

#include "ckpt/fd.h"

namespace ckpt::host {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

std::optional<bool> InUse(const std::string& path) {
  const ScopedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file) return std::nullopt;
  // The kernel grants a write lease only if no one else has the file open, and mappings hold it open (fcntl(2)): unlike process
  // ids, this works across namespaces.
  if (::fcntl(file.get(), F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
    return false;
  }
  if (errno == EAGAIN) return true;
  return std::nullopt;
}

void RemoveLeftovers(const std::string& path) noexcept {
  if (::unlink(path.c_str()) == 0 || (errno != EISDIR && errno != EPERM)) return;
  ScopedFd file(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return;
  const std::unique_ptr<DIR, CloseDirectory> directory(::fdopendir(file.get()));
  if (directory == nullptr) return;
  file.Release();
  while (const dirent* entry = ::readdir(directory.get())) ::unlinkat(::dirfd(directory.get()), entry->d_name, 0);
  ::rmdir(path.c_str());
}

}  // namespace ckpt::host
