// The part of NCCL's binary interface that this addon uses (2.19 and later), declared here so that it builds without nccl.h.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>

#include "cuda_abi.h"

namespace ckpt::cuda::nccl_abi {

using Result = int;
using Comm = struct CommTag*;

struct UniqueId {
  char internal[128];
};

/**
 * The head of ncclConfig_t as of 2.18. NCCL copies as many bytes as `size` says and uses its defaults for the rest, so that a
 * short head works with every later version.
 */
struct Config {
  size_t size = 44;
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21800;
  int blocking = INT_MIN;
  int cgaClusterSize = INT_MIN;
  int minCTAs = INT_MIN;
  int maxCTAs = INT_MIN;
  const char* netName = nullptr;
  int splitShare = INT_MIN;
  int padding = 0;
};

constexpr Result kSuccess = 0;
constexpr Result kInvalidArgument = 4;
constexpr Result kInvalidUsage = 5;
constexpr Result kInProgress = 7;
constexpr int kUint8 = 1;

#define CKPT_NCCL_FUNCTIONS(X)                                                                                            \
  X(getVersion, Result, "ncclGetVersion", (int* version))                                                                 \
  X(getUniqueId, Result, "ncclGetUniqueId", (UniqueId * id))                                                              \
  X(commInitRankConfig, Result, "ncclCommInitRankConfig", (Comm * comm, int size, UniqueId id, int rank, Config* config)) \
  X(commGetAsyncError, Result, "ncclCommGetAsyncError", (Comm comm, Result * error))                                      \
  X(commFinalize, Result, "ncclCommFinalize", (Comm comm))                                                                \
  X(commDestroy, Result, "ncclCommDestroy", (Comm comm))                                                                  \
  X(commAbort, Result, "ncclCommAbort", (Comm comm))                                                                      \
  X(broadcast, Result, "ncclBroadcast",                                                                                   \
    (const void* from, void* to, size_t count, int type, int root, Comm comm, abi::Stream stream))                        \
  X(groupStart, Result, "ncclGroupStart", (void))                                                                         \
  X(groupEnd, Result, "ncclGroupEnd", (void))                                                                             \
  X(getErrorString, const char*, "ncclGetErrorString", (Result error))                                                    \
  X(getLastError, const char*, "ncclGetLastError", (Comm comm))

/** NCCL's functions, filled in when the library is loaded. */
struct Api {
#define CKPT_DECLARE(member, type, symbol, parameters) type(*member) parameters = nullptr;
  CKPT_NCCL_FUNCTIONS(CKPT_DECLARE)
#undef CKPT_DECLARE
};

}  // namespace ckpt::cuda::nccl_abi
