#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/error.h"
#include "mapping.h"

namespace ckpt::host::fuzz {

/// A number that is small, at a border of `edge`, or anything.
inline std::uint64_t Number(FuzzedDataProvider& data, std::uint64_t edge) {
  switch (data.ConsumeIntegralInRange<int>(0, 5)) {
    case 0:
      return data.ConsumeIntegral<std::uint64_t>();
    case 1:
      return edge;
    case 2:
      return ~std::uint64_t{0} - data.ConsumeIntegral<std::uint8_t>();
    case 3:
      return edge - data.ConsumeIntegral<std::uint8_t>();
    default:
      return data.ConsumeIntegralInRange<std::uint64_t>(0, edge);
  }
}

/// Ends the program: what should hold does not.
[[noreturn]] inline void Broken(const std::string& what) {
  std::fprintf(stderr, "BROKEN: %s\n", what.c_str());
  std::abort();
}

/// Bytes on the heap, exactly as many, so that AddressSanitizer sees every access outside.
inline std::shared_ptr<Mapping> Memory(std::size_t bytes) { return Mapping::Anonymous(bytes); }

}  // namespace ckpt::host::fuzz
