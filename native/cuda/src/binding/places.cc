#include "places.h"

#include <string>

#include "ckpt/napi/numbers.h"

namespace ckpt::cuda {

Place PlaceOf(const std::shared_ptr<RegistrationObject>& object) {
  if (object->registration == nullptr || !object->registration->pinned()) {
    throw Error(code::kInvalidArgument, "the host memory is not pinned, the GPU cannot read it").WithField("memories");
  }
  return {reinterpret_cast<abi::DevicePointer>(object->data), object->bytes, object};
}

const Place& PlaceAt(const std::vector<Place>& places, double index, const char* field) {
  const std::uint64_t i = ToUnsigned(index, field);
  if (i >= places.size()) throw Error(code::kInvalidArgument, "there is no memory " + std::to_string(i)).WithField(field);
  return places[i];
}

abi::DevicePointer Inside(const Place& place, std::uint64_t offset, std::uint64_t rows, std::uint64_t row_bytes,
                          std::uint64_t pitch, const char* field) {
  std::uint64_t length = row_bytes;
  bool fits = true;
  if (rows == 0) {
    length = 0;
  } else if (rows > 1) {
    std::uint64_t skipped = 0;
    fits = !__builtin_mul_overflow(rows - 1, pitch, &skipped) && !__builtin_add_overflow(skipped, row_bytes, &length);
  }
  if (!fits || offset > place.bytes || length > place.bytes - offset) {
    throw Error(code::kInvalidArgument, "a range lies outside its memory").WithField(field);
  }
  return place.address + offset;
}

Napi::Float64Array ToRows(const Napi::Value& value, std::size_t columns, const char* field) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
      value.As<Napi::TypedArray>().ElementLength() % columns != 0) {
    throw Error(code::kInvalidArgument,
                std::string(field) + " must be a Float64Array of " + std::to_string(columns) + " columns")
        .WithField(field);
  }
  return value.As<Napi::Float64Array>();
}

std::vector<DeviceCopy> ToCopies(const Napi::Value& value, const std::vector<Place>& sources,
                                 const std::vector<Place>& destinations, const char* field) {
  constexpr std::size_t kColumns = 8;
  const Napi::Float64Array flat = ToRows(value, kColumns, field);
  std::vector<DeviceCopy> copies;
  copies.reserve(flat.ElementLength() / kColumns);
  for (std::size_t i = 0; i < flat.ElementLength(); i += kColumns) {
    DeviceCopy copy{};
    copy.source_pitch = ToUnsigned(flat[i + 2], "sourcePitch");
    copy.destination_pitch = ToUnsigned(flat[i + 5], "destinationPitch");
    copy.row_bytes = ToUnsigned(flat[i + 6], "rowBytes");
    copy.rows = ToUnsigned(flat[i + 7], "rows");
    copy.source = Inside(PlaceAt(sources, flat[i], "source"), ToUnsigned(flat[i + 1], "sourceOffset"), copy.rows,
                         copy.row_bytes, copy.source_pitch, "source");
    copy.destination = Inside(PlaceAt(destinations, flat[i + 3], "destination"), ToUnsigned(flat[i + 4], "destinationOffset"),
                              copy.rows, copy.row_bytes, copy.destination_pitch, "destination");
    copies.push_back(copy);
  }
  return copies;
}

}  // namespace ckpt::cuda
