#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>

#include "ckpt/error.h"

namespace ckpt {

/// A range of this process's memory.
struct MemoryRange {
  std::uint8_t* data = nullptr;
  std::size_t bytes = 0;
};

/// Reads an array of Buffers that are consecutive parts of one memory. @throws Error INVALID_ARGUMENT.
inline MemoryRange ToRange(const Napi::Value& value) {
  if (!value.IsArray()) throw Error(code::kInvalidArgument, "views must be an array").WithField("memory");
  const auto views = value.As<Napi::Array>();
  MemoryRange range;
  for (std::uint32_t i = 0; i < views.Length(); i++) {
    const Napi::Value one = views.Get(i);
    if (!one.IsBuffer()) throw Error(code::kInvalidArgument, "the memory must be given as buffers").WithField("memory");
    const auto view = one.As<Napi::Buffer<std::uint8_t>>();
    if (i == 0) range.data = view.Data();
    if (view.Data() != range.data + range.bytes) {
      throw Error(code::kInvalidArgument, "the buffers do not follow each other in memory").WithField("memory");
    }
    range.bytes += view.Length();
  }
  if (range.bytes == 0) throw Error(code::kInvalidArgument, "there are no bytes to register").WithField("memory");
  return range;
}

}  // namespace ckpt
