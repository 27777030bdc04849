#pragma once

#include <napi.h>

#include <vector>

#include "ckpt/copies.h"
#include "ckpt/napi/columns.h"

namespace ckpt {

/// Reads the columns of StridedCopies (@ckpt/contract). @throws Error INVALID_ARGUMENT naming the field.
inline std::vector<StridedCopy> ToStridedCopies(const Napi::Value& value, const char* field) {
  return ToRows(value, 8, field, [](const double* row) {
    return StridedCopy{ToUnsigned(row[0], "source"),
                       ToUnsigned(row[1], "sourceOffset"),
                       ToUnsigned(row[2], "sourcePitch"),
                       ToUnsigned(row[3], "destination"),
                       ToUnsigned(row[4], "destinationOffset"),
                       ToUnsigned(row[5], "destinationPitch"),
                       ToUnsigned(row[6], "rowBytes"),
                       ToUnsigned(row[7], "rows")};
  });
}

/// Reads the columns of ContiguousCopies (@ckpt/contract). @throws Error INVALID_ARGUMENT naming the field.
inline std::vector<ContiguousCopy> ToContiguousCopies(const Napi::Value& value, const char* field) {
  return ToRows(value, 5, field, [field](const double* row) {
    return ContiguousCopy{ToUnsigned(row[0], field), ToUnsigned(row[1], field), ToUnsigned(row[2], field),
                          ToUnsigned(row[3], field), ToUnsigned(row[4], field)};
  });
}

}  // namespace ckpt
