#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../engine/kernels.h"
#include "objects.h"

namespace ckpt::cuda {

/// A memory that the GPU can address, and the object that keeps it alive.
struct Place {
  abi::DevicePointer address;
  std::uint64_t bytes;
  std::shared_ptr<const void> hold;
};

/// Registered host memory. @throws Error INVALID_ARGUMENT (field `memories`) if it is not pinned.
Place PlaceOf(const std::shared_ptr<RegistrationObject>& object);

/// The place at an index. @throws Error INVALID_ARGUMENT with the field.
const Place& PlaceAt(const std::vector<Place>& places, std::size_t index, const char* field);

/// Address of `rows` runs in a place. @throws Error INVALID_ARGUMENT with the field if they exceed it.
abi::DevicePointer Inside(const Place& place, std::uint64_t offset, std::uint64_t rows, std::uint64_t row_bytes,
                          std::uint64_t pitch, const char* field);

/// Reads the columns of StridedCopies, from one list of places to another. @throws Error INVALID_ARGUMENT.
std::vector<DeviceCopy> ToCopies(const Napi::Value& value, const std::vector<Place>& sources,
                                 const std::vector<Place>& destinations, const char* field);

}  // namespace ckpt::cuda
