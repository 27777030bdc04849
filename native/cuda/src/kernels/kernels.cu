// The addon's kernels. Both process a list of jobs that is divided into tiles of similar size. A tile finds its job by binary
// search over the jobs' first tiles, so that any mix of sizes is distributed evenly over the GPU.
#include "kernel_jobs.h"

using ckpt::cuda::CopyJob;
using ckpt::cuda::DigestJob;
using ckpt::cuda::kDigestTileBytes;
using ckpt::cuda::kKernelThreads;

namespace {

template <typename Job>
__device__ unsigned int FindJob(const Job* jobs, unsigned int count, unsigned long long tile) {
  unsigned int low = 0, high = count - 1;
  while (low < high) {
    const unsigned int middle = (low + high + 1) / 2;
    if (jobs[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__device__ unsigned long long Mix(unsigned long long x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

__device__ unsigned long long Term(unsigned long long word, unsigned long long index) {
  return Mix(word + (index + 1) * 0x9e3779b97f4a7c15ull);
}

/// Word `index` of a range, byte by byte: for the end of a range, where a wider load could exceed it.
__device__ unsigned long long WordByBytes(const unsigned char* data, unsigned long long bytes, unsigned long long index) {
  unsigned long long word = 0;
  for (unsigned int i = 0; i < 8; i++) {
    const unsigned long long at = index * 8 + i;
    if (at < bytes) word |= static_cast<unsigned long long>(data[at]) << (8 * i);
  }
  return word;
}

__device__ unsigned long long DigestTile(const DigestJob& job, unsigned long long tile) {
  const auto* data = reinterpret_cast<const unsigned char*>(job.address);
  const unsigned long long words = (job.bytes + 7) / 8;
  const unsigned long long first = tile * (kDigestTileBytes / 8);
  const unsigned long long last = min(words, first + kDigestTileBytes / 8);
  const unsigned int shift = static_cast<unsigned int>(job.address & 7) * 8;
  unsigned long long sum = 0;
  // For words up to `whole`, all the aligned memory that they are composed of is inside the range.
  unsigned long long whole = job.bytes / 8;
  if (shift != 0 && whole > 0) whole--;
  whole = min(whole, last);
  unsigned long long i = first;
  if ((job.address & 15) == 0) {
    const auto* pairs = reinterpret_cast<const ulonglong2*>(data);
    const unsigned long long pairs_end = first < whole ? whole / 2 : first / 2;
#pragma unroll 4
    for (unsigned long long pair = first / 2 + threadIdx.x; pair < pairs_end; pair += kKernelThreads) {
      const ulonglong2 value = pairs[pair];
      sum += Term(value.x, pair * 2) + Term(value.y, pair * 2 + 1);
    }
    i = max(first, pairs_end * 2);
  } else if (shift == 0) {
    const auto* aligned = reinterpret_cast<const unsigned long long*>(data);
#pragma unroll 4
    for (unsigned long long word = first + threadIdx.x; word < whole; word += kKernelThreads) sum += Term(aligned[word], word);
    i = max(first, whole);
  } else {
    const auto* aligned = reinterpret_cast<const unsigned long long*>(job.address & ~7ull);
#pragma unroll 4
    for (unsigned long long word = first + threadIdx.x; word < whole; word += kKernelThreads) {
      sum += Term((aligned[word] >> shift) | (aligned[word + 1] << (64 - shift)), word);
    }
    i = max(first, whole);
  }
  for (i += threadIdx.x; i < last; i += kKernelThreads) sum += Term(WordByBytes(data, job.bytes, i), i);
  return sum;
}

/// Memory is read in lines of this many bytes. A load of a warp that begins inside a line touches one line more; over the host
/// link, a line that two loads share is transferred twice.
constexpr unsigned int kLineBytes = 128;

template <typename T>
__device__ void CopyRows(const CopyJob& job, unsigned long long first_row, unsigned long long rows, unsigned long long column,
                         unsigned long long bytes) {
  constexpr unsigned int kLine = kLineBytes / sizeof(T);
  const unsigned int width = static_cast<unsigned int>(bytes / sizeof(T));
  const unsigned long long source = job.source + first_row * job.source_pitch + column;
  const unsigned long long destination = job.destination + first_row * job.destination_pitch + column;
  // Rows that do not begin at a line are processed from the start of their first line, so that every line is read by one load.
  // Short rows are not: most threads would have nothing to do.
  const bool aligned = bytes < 4 * kLineBytes || ((source | (rows > 1 ? job.source_pitch : 0)) & (kLineBytes - 1)) == 0;
  const unsigned int slots = aligned ? width : (width + 2 * (kLine - 1)) / kLine * kLine;
  const unsigned int total = slots * static_cast<unsigned int>(rows);
  constexpr unsigned int kAtOnce = 4;
  for (unsigned int base = threadIdx.x; base < total; base += kKernelThreads * kAtOnce) {
    T values[kAtOnce];
    unsigned long long to[kAtOnce];
#pragma unroll
    for (unsigned int k = 0; k < kAtOnce; k++) {
      to[k] = 0;
      const unsigned int at = base + k * kKernelThreads;
      if (at >= total) continue;
      const unsigned int row = at / slots;
      const unsigned long long from = source + row * job.source_pitch;
      const unsigned int lead = aligned ? 0 : static_cast<unsigned int>(from & (kLineBytes - 1)) / sizeof(T);
      // Before the row this is far greater than its width.
      const unsigned int word = at - row * slots - lead;
      if (word >= width) continue;
      values[k] = *reinterpret_cast<const T*>(from + word * sizeof(T));
      to[k] = destination + row * job.destination_pitch + word * sizeof(T);
    }
#pragma unroll
    for (unsigned int k = 0; k < kAtOnce; k++) {
      if (to[k] != 0) *reinterpret_cast<T*>(to[k]) = values[k];
    }
  }
}

}  // namespace

/// Adds to sums[j] the terms of every word of range j. The host adds the term of the length itself.
extern "C" __global__ void __launch_bounds__(kKernelThreads)
    ckpt_digest(const DigestJob* jobs, unsigned int count, unsigned long long tiles, unsigned long long* sums) {
  for (unsigned long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const unsigned int index = FindJob(jobs, count, tile);
    unsigned long long sum = DigestTile(jobs[index], tile - jobs[index].first_tile);
    for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_down_sync(0xffffffffu, sum, lane);
    if ((threadIdx.x & 31) == 0) atomicAdd(&sums[index], sum);
  }
}

/// Two-dimensional copies, any alignment; sources and destinations must not overlap.
extern "C" __global__ void __launch_bounds__(kKernelThreads)
    ckpt_copy_strided(const CopyJob* jobs, unsigned int count, unsigned long long tiles) {
  for (unsigned long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const CopyJob& job = jobs[FindJob(jobs, count, tile)];
    const unsigned long long local = tile - job.first_tile;
    const unsigned long long first_row = local / job.tiles_per_row * job.rows_per_tile;
    const unsigned long long rows = min(job.rows_per_tile, job.rows - first_row);
    const unsigned long long column = local % job.tiles_per_row * job.tile_bytes;
    const unsigned long long bytes = min(job.tile_bytes, job.row_bytes - column);
    switch (job.unit) {
      case 16:
        CopyRows<uint4>(job, first_row, rows, column, bytes);
        break;
      case 8:
        CopyRows<uint2>(job, first_row, rows, column, bytes);
        break;
      case 4:
        CopyRows<unsigned int>(job, first_row, rows, column, bytes);
        break;
      case 2:
        CopyRows<unsigned short>(job, first_row, rows, column, bytes);
        break;
      default:
        CopyRows<unsigned char>(job, first_row, rows, column, bytes);
        break;
    }
  }
}
