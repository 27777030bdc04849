#include "reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>

#include "ckpt/error.h"
#include "ckpt/fd.h"
#include "spans.h"

namespace ckpt::host {
namespace {

constexpr std::uint64_t kLargestSlice = std::uint64_t{8} << 20;

/// Counts bytes on many threads and reports now and then.
class Progress {
 public:
  explicit Progress(const std::function<void(std::uint64_t)>& report) : report_(report) {}

  void Add(std::uint64_t bytes) {
    const std::uint64_t total = total_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (!report_) return;
    const std::int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
    std::int64_t last = last_.load(std::memory_order_relaxed);
    if (now - last >= kInterval && last_.compare_exchange_strong(last, now, std::memory_order_relaxed)) report_(total);
  }

 private:
  static constexpr std::int64_t kInterval = std::chrono::steady_clock::duration(std::chrono::milliseconds(50)).count();
  const std::function<void(std::uint64_t)>& report_;
  std::atomic<std::uint64_t> total_{0};
  std::atomic<std::int64_t> last_{std::chrono::steady_clock::now().time_since_epoch().count()};
};

Error Short(const std::string& path, std::uint64_t wanted, std::uint64_t size) {
  return Error(code::kCheckpointUnreadable,
               "'" + path + "' has " + std::to_string(size) + " bytes where " + std::to_string(wanted) + " are needed")
      .WithFile(path);
}

/// Opens a file of which the first `wanted` bytes will be read.
ScopedFd Open(const std::string& path, std::uint64_t wanted) {
  // Not waiting for the other end of a pipe, which is refused below.
  ScopedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw Error::System(code::kCheckpointUnreadable, "cannot open '" + path + "'", errno).WithFile(path);
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) {
    throw Error::System(code::kCheckpointUnreadable, "cannot stat '" + path + "'", errno).WithFile(path);
  }
  if (!S_ISREG(status.st_mode)) throw Error(code::kCheckpointUnreadable, "'" + path + "' is not a regular file").WithFile(path);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < wanted) throw Short(path, wanted, size);
  return fd;
}

void ReadFully(int fd, const std::string& path, std::byte* data, std::uint64_t bytes, std::uint64_t offset) {
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, data, bytes, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw Error::System(code::kCheckpointUnreadable, "cannot read '" + path + "' at byte " + std::to_string(offset), errno)
          .WithFile(path);
    }
    if (got == 0) throw Short(path, offset + bytes, offset);  // cut short since it was opened
    data += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::uint64_t>(got);
  }
}

}  // namespace

std::uint64_t ReadFiles(WorkerPool& pool, unsigned threads, const std::vector<std::string>& files,
                        const std::vector<std::shared_ptr<Mapping>>& memories, const std::vector<FileRead>& reads,
                        const std::function<void(std::uint64_t)>& progress, const Cancellation& cancellation) {
  Spans spans;
  spans.Reserve(reads.size());
  std::vector<std::uint64_t> wanted(files.size());
  for (std::size_t i = 0; i < reads.size(); i++) {
    const FileRead& read = reads[i];
    const std::string name = "read " + std::to_string(i);
    if (read.file >= files.size()) throw Error(code::kInvalidArgument, name + ": no such file in the list").WithField("file");
    if (read.memory >= memories.size() || !Inside(read.memory_offset, read.bytes, memories[read.memory]->size())) {
      throw Error(code::kInvalidArgument, name + " leaves its memory").WithField("memory");
    }
    wanted[read.file] = std::max(wanted[read.file], read.file_offset + read.bytes);
    spans.Add(read.bytes);
  }
  std::vector<ScopedFd> fds;
  fds.reserve(files.size());
  for (std::size_t i = 0; i < files.size(); i++) fds.push_back(Open(files[i], wanted[i]));
  Progress counter(progress);
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t index, std::uint64_t from, std::uint64_t to) {
    const FileRead& read = reads[index];
    Mapping& memory = *memories[read.memory];
    const std::uint64_t at = read.memory_offset + from;
    memory.FormHugePages(at, to - from);
    ReadFully(fds[read.file].get(), files[read.file], memory.data() + at, to - from, read.file_offset + from);
    counter.Add(to - from);
  });
  return spans.total();
}

}  // namespace ckpt::host
