#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/copies.h"
#include "ckpt/worker_pool.h"
#include "digest.h"
#include "mapping.h"
#include "open_file.h"

namespace ckpt::host {

/// What was read, and the requested digests.
struct FilesRead {
  std::uint64_t bytes;
  std::vector<std::uint64_t> digests;
};

/// Reads all runs on several threads (also within one run), directly to their destinations. `progress`, if given, is called on
/// any of the threads with the bytes read so far, at most about twenty times a second. `digested`: ranges of the memories to
/// compute digests of meanwhile; the runs must fill each of their bytes exactly once. Everything is checked, including every
/// file's size, before the first byte is read; after an error the memory contains some of the bytes. Files without a descriptor
/// are opened when they are read, a few at a time, and must be unchanged; the caller that opened them compares their identity
/// again afterwards.
/// @throws Error CHECKPOINT_UNREADABLE naming the file (missing, too short, I/O error), CHECKPOINT_CHANGED naming a file that
/// was replaced meanwhile, INVALID_ARGUMENT, ABORTED.
FilesRead ReadFiles(WorkerPool& pool, unsigned threads, const std::vector<FileToRead>& files,
                    const std::vector<std::shared_ptr<Mapping>>& memories, const std::vector<ContiguousCopy>& reads,
                    const std::vector<MemoryRange>& digested, const std::function<void(std::uint64_t)>& progress,
                    const Cancellation& cancellation);

}  // namespace ckpt::host
