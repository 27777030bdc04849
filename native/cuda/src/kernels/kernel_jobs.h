// Shared by host code and kernels: the layout of their job lists.
#pragma once

namespace ckpt::cuda {

constexpr unsigned int kKernelThreads = 256;
constexpr unsigned long long kDigestTileBytes = 64 << 10;
constexpr unsigned long long kCopyTileBytes = 64 << 10;

/// One byte range to digest.
struct DigestJob {
  unsigned long long address;
  unsigned long long bytes;
  /// Number of tiles of all earlier jobs.
  unsigned long long first_tile;
};

/// One two-dimensional copy.
struct CopyJob {
  unsigned long long source;
  unsigned long long destination;
  unsigned long long rows;
  unsigned long long row_bytes;
  unsigned long long source_pitch;
  unsigned long long destination_pitch;
  /// Number of tiles of all earlier jobs.
  unsigned long long first_tile;
  /// Either a row has several tiles, or a tile has several whole rows.
  unsigned long long tiles_per_row;
  unsigned long long rows_per_tile;
  unsigned long long tile_bytes;
  /// Bytes that a thread moves at once: 16, 8, 4, 2 or 1; divides addresses, pitches and widths.
  unsigned int unit;
  unsigned int padding;
};

}  // namespace ckpt::cuda
