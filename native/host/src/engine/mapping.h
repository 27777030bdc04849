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

/// A range of mapped host memory. Held by shared_ptr by everyone who uses it: it is unmapped when the last of them lets go.
class Mapping {
 public:
  enum class Kind { kAnonymous, kShared, kFile };
  /// Of an object that others have too: its bytes alone; a copy of what is written, which nobody else sees; its bytes to write
  /// to.
  enum class Access { kRead, kPrivate, kWrite };
  static constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

  /// Private memory, 2 MiB aligned, advised to use huge pages. @throws Error OUT_OF_MEMORY.
  static std::shared_ptr<Mapping> Anonymous(std::size_t bytes);
  /// Memory without a name in any file system that other processes of this user can map all the same, by name(): a path in
  /// /proc that holds while this mapping lives. @throws Error OUT_OF_MEMORY.
  static std::shared_ptr<Mapping> Shareable(std::size_t bytes);
  /// New POSIX shared memory, mode 0600. Its pages are not there yet: call Populate or Reserve before any use.
  /// @throws Error OUT_OF_MEMORY, INVALID_ARGUMENT (the name is taken or malformed).
  static std::shared_ptr<Mapping> CreateShared(const std::string& name, std::size_t bytes);
  /// A file in place, opened for reading; what is written to the mapping never reaches the file. With `writable` it is opened
  /// for writing where it can be, for GPUs that pin memory for writing alone.
  /// @throws Error CHECKPOINT_UNREADABLE naming the file.
  static std::shared_ptr<Mapping> File(const std::string& path, bool writable = false);
  /// An object that was opened and checked already, all of it.
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
  /// What was mapped, as it was then; nothing for private memory.
  const std::optional<Identity>& identity() const { return identity_; }
  /// The descriptor that keeps it open in this process, or -1.
  int descriptor() const { return fd_.get(); }
  /// Nobody may write to what is mapped: CheckIntact() then looks at the times of the object too. Before any other use.
  void MustStay() { must_stay_ = true; }
  /// @throws Error MEMORY_CHANGED naming the file when pages of it were gone, when it is smaller than what was mapped, or when
  /// it was written to though it must stay.
  void CheckIntact() const;
  bool locked() const;
  /// Why the pages are not locked; empty where they are, or where nobody asked.
  std::string lock_error() const;

  /// Has pages that are not there yet come from memory node `node`, where it has any left. Does nothing on a machine with one
  /// node; a refusal of the kernel is ignored, as it costs speed alone.
  void PreferNode(int node);
  /// From now on Populate and FormHugePages put the pages of this memory together into huge ones, even where the system does
  /// not do that for shared memory by itself. Nothing else may use the memory yet.
  void UseHugePages();
  /// Has the bytes' pages be huge before they are filled. Does nothing without UseHugePages, and where the kernel (before Linux
  /// 6.1) or the memory has none. From any thread. @throws Error OUT_OF_MEMORY.
  void FormHugePages(std::size_t offset, std::size_t bytes);
  /// Touches every page for writing, in slices on several threads. @throws Error OUT_OF_MEMORY (a full /dev/shm too), ABORTED.
  void Populate(WorkerPool& pool, unsigned threads, const Cancellation& cancellation);
  /// Maps pages that exist already (those of a file in memory), in slices on several threads; reads them in where need be.
  /// A failure is ignored: pages then come when they are used. @throws Error INVALID_ARGUMENT outside the memory, ABORTED.
  void PopulateRead(std::size_t offset, std::size_t bytes, WorkerPool& pool, unsigned threads,
                    const Cancellation& cancellation);
  /// Takes the memory of new shared memory from the file system without touching it. @throws Error OUT_OF_MEMORY, ABORTED.
  void Reserve(const Cancellation& cancellation);
  /// Locks the pages in memory: those that are there now, the others as soon as they are. A refusal is kept in lock_error().
  void Lock();
  /// Removes the name from the file system. A name that is gone already is not an error.
  /// @throws Error INVALID_STATE for anonymous memory and for files outside /dev/shm, NATIVE_FAILURE.
  void Unlink();

 private:
  const Kind kind_;
  const std::string name_;
  const ScopedMmap memory_;
  const ScopedFd fd_;
  const std::optional<Identity> identity_;
  /// Ends before memory_ does.
  const PageWatch pages_;
  bool must_stay_ = false;
  /// By huge page: whether somebody has formed it, or is about to. Null where nobody shall.
  std::unique_ptr<std::atomic<bool>[]> formed_;
  mutable std::mutex mutex_;
  bool locked_ = false;
  std::string lock_error_;
};

}  // namespace ckpt::host
