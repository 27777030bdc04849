// Which rows go to the copy engine: decided without a GPU.
#include "direct.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

namespace {

using ckpt::cuda::DeviceCopy;
using ckpt::cuda::SuitsEngine;

}  // namespace

TEST_CASE("direct: the copy engine's rows") {
  const DeviceCopy off{4096 + 40, 1 << 20, 2048, 768, 1536, 768};
  REQUIRE_MESSAGE(SuitsEngine(off), "rows that do not begin with a line");
  const auto with = [&](auto change) {
    DeviceCopy copy = off;
    change(copy);
    return SuitsEngine(copy);
  };
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.source = 4096; }), "rows that begin with a line are the kernel's");
  REQUIRE_MESSAGE(with([](DeviceCopy& copy) { copy.source = 4096, copy.source_pitch = 1544; }), "all rows count");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.row_bytes = 255; }), "short rows are the kernel's");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.rows = 300; }), "few bytes are the kernel's");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.source_pitch = 0; }), "one row again and again is the kernel's");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.source_pitch = 760; }), "rows that overlap are the kernel's");
  REQUIRE_MESSAGE(with([](DeviceCopy& copy) { copy.source_pitch = 768; }), "rows side by side do not overlap");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.source_pitch = std::uint64_t{1} << 31; }),
                  "the driver has a largest pitch");
  REQUIRE_MESSAGE(!with([](DeviceCopy& copy) { copy.destination_pitch = std::uint64_t{1} << 31; }), "at the destination too");
}
