#include "reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <unordered_map>
#include <utility>

#include "ckpt/error.h"
#include "ckpt/fd.h"
#include "spans.h"

namespace ckpt::host {
namespace {

constexpr std::uint64_t kLargestSlice = std::uint64_t{8} << 20;
/// Amount read at a time if it is summed afterwards: it is in the core's second-level cache then.
constexpr std::uint64_t kDigestedPiece = std::uint64_t{512} << 10;

/// Counts bytes on many threads and reports from time to time.
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

/// Maximum of files that stay open for a whole call; others are opened for every slice.
constexpr std::size_t kKeptOpen = 8;

/// The files of one call, of which `wanted` bytes will be read.
class Files {
 public:
  Files(const std::vector<FileToRead>& files, const std::vector<std::uint64_t>& wanted) : files_(files) {
    identities_.reserve(files.size());
    for (std::size_t i = 0; i < files.size(); i++) {
      struct stat status{};
      if (files[i].descriptor >= 0) {
        Stat(files[i], status);
      } else {
        ScopedFd fd = OpenSame(files[i], files[i].identity, status);
        if (kept_.size() < kKeptOpen) kept_.emplace(i, std::move(fd));
      }
      const auto size = static_cast<std::uint64_t>(status.st_size);
      if (size < wanted[i]) throw Short(files[i].path, wanted[i], size);
      identities_.push_back(FileIdentity::Of(status));
    }
  }

  /// Calls body with an open descriptor of the file.
  template <class Body>
  void With(std::size_t index, const Body& body) const {
    const FileToRead& file = files_[index];
    if (file.descriptor >= 0) return body(file.descriptor);
    const auto kept = kept_.find(index);
    if (kept != kept_.end()) return body(kept->second.get());
    struct stat status{};
    const ScopedFd fd = OpenSame(file, identities_[index], status);
    body(fd.get());
  }

 private:
  static void Stat(const FileToRead& file, struct stat& status) {
    if (::fstat(file.descriptor, &status) == 0) return;
    throw Error::System(code::kCheckpointUnreadable, "cannot stat '" + file.path + "'", errno).WithFile(file.path);
  }

  static ScopedFd OpenSame(const FileToRead& file, const std::optional<FileIdentity>& identity, struct stat& status) {
    ScopedFd fd = OpenRegular(file.path, status);
    if (!identity || FileIdentity::Of(status) == *identity) return fd;
    throw Error(code::kCheckpointChanged,
                "'" + file.path + "' changed, or was replaced, while it was read: try again once its writer is done")
        .WithFile(file.path);
  }

  const std::vector<FileToRead>& files_;
  std::vector<FileIdentity> identities_;
  std::unordered_map<std::size_t, ScopedFd> kept_;
};

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

FilesRead ReadFiles(WorkerPool& pool, unsigned threads, const std::vector<FileToRead>& files,
                    const std::vector<std::shared_ptr<Mapping>>& memories, const std::vector<ContiguousCopy>& reads,
                    const std::vector<MemoryRange>& digested, const std::function<void(std::uint64_t)>& progress,
                    const Cancellation& cancellation) {
  Spans spans;
  spans.Reserve(reads.size());
  std::vector<std::uint64_t> wanted(files.size());
  for (std::size_t i = 0; i < reads.size(); i++) {
    const ContiguousCopy& read = reads[i];
    const std::string name = "read " + std::to_string(i);
    if (read.source >= files.size())
      throw Error(code::kInvalidArgument, name + ": the file is not in the list").WithField("file");
    if (read.destination >= memories.size() ||
        !Inside(read.destination_offset, read.bytes, memories[read.destination]->size())) {
      throw Error(code::kInvalidArgument, name + " is outside its memory").WithField("memory");
    }
    wanted[read.source] = std::max(wanted[read.source], read.source_offset + read.bytes);
    spans.Add(read.bytes);
  }
  DigestsOnArrival digests(memories, digested);
  const Files opened(files, wanted);
  Progress counter(progress);
  spans.Parallel(pool, threads, kLargestSlice, cancellation, [&](std::size_t index, std::uint64_t from, std::uint64_t to) {
    const ContiguousCopy& read = reads[index];
    Mapping& memory = *memories[read.destination];
    const std::uint64_t at = read.destination_offset + from;
    memory.FormHugePages(at, to - from);
    opened.With(read.source, [&](int fd) {
      const std::uint64_t most = digested.empty() ? to - from : kDigestedPiece;
      for (std::uint64_t done = from; done < to;) {
        const std::uint64_t bytes = std::min(most, to - done);
        const std::uint64_t place = read.destination_offset + done;
        ReadFully(fd, files[read.source].path, memory.data() + place, bytes, read.source_offset + done);
        digests.Arrived(read.destination, place, bytes);
        done += bytes;
      }
    });
    counter.Add(to - from);
  });
  return {spans.total(), digests.Finish()};
}

}  // namespace ckpt::host
