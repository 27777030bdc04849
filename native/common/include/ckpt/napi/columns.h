#pragma once

#include <napi.h>

#include <cstddef>
#include <string>
#include <vector>

#include "ckpt/error.h"
#include "ckpt/napi/numbers.h"

namespace ckpt {

/// Returns one column of a plan: a typed array of type `type` with at least `length` entries.
/// @throws Error INVALID_ARGUMENT naming the field.
template <class Array>
Array Column(const Napi::Object& job, const char* field, napi_typedarray_type type, std::size_t length) {
  const Napi::Value value = job.Get(field);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    throw Error(code::kInvalidArgument, std::string(field) + " does not have the required typed array type").WithField(field);
  }
  const auto array = value.As<Array>();
  if (array.ElementLength() < length) {
    throw Error(code::kInvalidArgument, std::string(field) + " has " + std::to_string(array.ElementLength()) +
                                            " entries, not " + std::to_string(length))
        .WithField(field);
  }
  return array;
}

/// Returns the rows of a flat Float64Array of `columns` numbers per row, each made by `make(const double* row)`. They are
/// copied, because JavaScript may change the array.
/// @throws Error INVALID_ARGUMENT naming the field.
template <class Make>
auto ToRows(const Napi::Value& value, std::size_t columns, const char* field, Make make) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw Error(code::kInvalidArgument, std::string(field) + " must be a Float64Array").WithField(field);
  }
  const auto array = value.As<Napi::Float64Array>();
  const std::size_t length = array.ElementLength();
  if (length % columns != 0) {
    throw Error(code::kInvalidArgument, std::string(field) + " must have " + std::to_string(columns) + " numbers per row")
        .WithField(field);
  }
  const double* numbers = length == 0 ? nullptr : array.Data();
  std::vector<decltype(make(numbers))> rows;
  rows.reserve(length / columns);
  for (std::size_t at = 0; at < length; at += columns) rows.push_back(make(numbers + at));
  return rows;
}

}  // namespace ckpt
