#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "ckpt/cancellation.h"
#include "ckpt/fd.h"
#include "ckpt/mmap.h"
#include "ckpt/worker_pool.h"
#include "identity.h"
#include "lost_pages.h"

namespace ckpt::host {

/// A range of mapped host memory. Every user holds a shared_ptr; the range is unmapped when the last of them is released.
class Mapping {
 public:
  enum class Kind { kAnonymous, kShared, kFile };
  /// Access to an object that others use too: read only; a private copy of what is written; or writing to its bytes.
  enum class Access { kRead, kPrivate, kWrite };
  static constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

  /// Private memory, 2 MiB aligned, advised to use huge pages. @throws Error OUT_OF_MEMORY.
  static std::shared_ptr<Mapping> Anonymous(std::size_t bytes);
  /// Memory without a name in any file system; other processes of this user can map it by name(): a path in /proc that is valid
  /// while this mapping lives. @throws Error OUT_OF_MEMORY.
  static std::shared_ptr<Mapping> Shareable(std::size_t bytes);
  /// New POSIX shared memory, mode 0600. Its pages are not allocated yet: call Populate or Reserve before any use.
  /// @throws Error OUT_OF_MEMORY, INVALID_ARGUMENT (the name is in use or malformed).
  static std::shared_ptr<Mapping> CreateShared(const std::string& name, std::size_t bytes);
  /// A file in place, opened for reading; what is written to the mapping never reaches the file. With `writable` it is opened
  /// for writing if possible, for GPUs that only pin writable memory.
  /// @throws Error CHECKPOINT_UNREADABLE naming the file.
  static std::shared_ptr<Mapping> File(const std::string& path, bool writable = false);
  /// The whole of an object that is already open and checked.
  /// @throws Error OUT_OF_MEMORY.
  static std::shared_ptr<Mapping> Opened(Kind kind, const std::string& name, ScopedFd fd, Access access);

  Mapping(Kind kind, std::string name, ScopedMmap memory, ScopedFd fd = ScopedFd(), std::optional<Identity> identity = {});
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return memory_.data(); }
  std::size_t size() const { return memory_.size(); }
  Kind kind() const { return kind_; }
  /// Name in /dev/shm without a slash, path of a file or of shareable memory, empty for other anonymous memory.
  const std::string& name() const { return name_; }
  /// Identity of the mapped object when it was mapped; nothing for private memory.
  const std::optional<Identity>& identity() const { return identity_; }
  /// The descriptor that keeps it open in this process, or -1.
  int descriptor() const { return fd_.get(); }
  /// The mapped object must not be written to: CheckIntact() then also checks the object's times. Call it before any other use.
  void MustStay() { must_stay_ = true; }
  /// @throws Error MEMORY_CHANGED naming the file if pages of it were missing, if it is smaller than what was mapped, or if it
  /// was written to after MustStay().
  void CheckIntact() const;
  bool locked() const;
  /// Why the pages are not locked; empty if they are, or if locking was not requested.
  std::string lock_error() const;

  /// Requests that pages not yet allocated come from NUMA node `node`, as long as it has free memory. Does nothing on a machine
  /// with one node. A refusal by the kernel is ignored, because it only affects speed.
  void PreferNode(int node);
  /// From now on Populate and FormHugePages combine the pages of this memory into huge pages, even if the system does not do
  /// that for shared memory by default. Call it before any other use of the memory.
  void UseHugePages();
  /// Makes the pages of the bytes huge before they are filled. Does nothing without UseHugePages, or if the kernel (before
  /// Linux 6.1) or the memory does not support it. Callable from any thread. @throws Error OUT_OF_MEMORY.
  void FormHugePages(std::size_t offset, std::size_t bytes);
  /// Writes to every page, in slices on several threads. @throws Error OUT_OF_MEMORY (also if /dev/shm is full), ABORTED.
  void Populate(WorkerPool& pool, unsigned threads, const Cancellation& cancellation);
  /// Maps existing pages (those of a file in memory), in slices on several threads; reads them from the file if needed. A
  /// failure is ignored: pages are then mapped when they are used. @throws Error INVALID_ARGUMENT outside the memory, ABORTED.
  void PopulateRead(std::size_t offset, std::size_t bytes, WorkerPool& pool, unsigned threads,
                    const Cancellation& cancellation);
  /// Allocates the pages of new shared memory in the file system without accessing them. @throws Error OUT_OF_MEMORY, ABORTED.
  void Reserve(const Cancellation& cancellation);
  /// Locks the pages in memory: existing ones now, the others as soon as they are allocated. A refusal is kept in lock_error().
  void Lock();
  /// Removes the name from the file system. A missing name is not an error.
  /// @throws Error INVALID_STATE for anonymous memory and for files outside /dev/shm, NATIVE_FAILURE.
  void Unlink();

 private:
  const Kind kind_;
  const std::string name_;
  const ScopedMmap memory_;
  const ScopedFd fd_;
  const std::optional<Identity> identity_;
  /// Destroyed before memory_.
  const PageWatch pages_;
  bool must_stay_ = false;
  /// By huge page: whether a thread has formed it or is about to. Null without UseHugePages.
  std::unique_ptr<std::atomic<bool>[]> formed_;
  mutable std::mutex mutex_;
  bool locked_ = false;
  std::string lock_error_;
};

}  // namespace ckpt::host
