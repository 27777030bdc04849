#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "ckpt/error.h"
#include "ckpt/worker_pool.h"

namespace ckpt {

/// Converts a number that must be whole and from 0 to 2^53 - 1. @throws Error INVALID_ARGUMENT naming the field.
inline std::uint64_t ToUnsigned(double value, const char* field) {
  if (!(value >= 0 && value <= 9007199254740991.0) || std::trunc(value) != value) {
    throw Error(code::kInvalidArgument, std::string(field) + " must be a whole number from 0 to 2^53 - 1").WithField(field);
  }
  return static_cast<std::uint64_t>(value);
}

inline std::uint64_t ToUnsigned(const Napi::Value& value, const char* field) {
  if (!value.IsNumber()) throw Error(code::kInvalidArgument, std::string(field) + " must be a number").WithField(field);
  return ToUnsigned(value.As<Napi::Number>().DoubleValue(), field);
}

/// Converts a number of threads; undefined means the default. @throws Error INVALID_ARGUMENT.
inline unsigned ToThreads(const Napi::Value& value) {
  if (value.IsUndefined()) return DefaultThreads();
  const std::uint64_t threads = ToUnsigned(value, "threads");
  if (threads < 1 || threads > 64) throw Error(code::kInvalidArgument, "threads must be from 1 to 64").WithField("threads");
  return static_cast<unsigned>(threads);
}

/// @throws Error INVALID_ARGUMENT if the value is not a string, or contains a NUL.
inline std::string ToText(const Napi::Value& value, const char* field) {
  if (!value.IsString()) throw Error(code::kInvalidArgument, std::string(field) + " must be a string").WithField(field);
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) {
    throw Error(code::kInvalidArgument, std::string(field) + " contains a NUL character").WithField(field);
  }
  return text;
}

}  // namespace ckpt
