#include "places.h"

#include <string>

#include "ckpt/napi/copies.h"

namespace ckpt::cuda {

Place PlaceOf(const std::shared_ptr<RegistrationObject>& object) {
  if (object->registration == nullptr || !object->registration->pinned()) {
    throw Error(code::kInvalidArgument, "the host memory is not pinned: the GPU cannot read it").WithField("memories");
  }
  return {reinterpret_cast<abi::DevicePointer>(object->data), object->bytes, object};
}

const Place& PlaceAt(const std::vector<Place>& places, std::size_t index, const char* field) {
  if (index >= places.size())
    throw Error(code::kInvalidArgument, "there is no memory " + std::to_string(index)).WithField(field);
  return places[index];
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

std::vector<DeviceCopy> ToCopies(const Napi::Value& value, const std::vector<Place>& sources,
                                 const std::vector<Place>& destinations, const char* field) {
  const auto from = [&](const StridedCopy& copy) {
    const Place& place = PlaceAt(sources, copy.source, "source");
    return Inside(place, copy.source_offset, copy.rows, copy.row_bytes, copy.source_pitch, "source");
  };
  const auto to = [&](const StridedCopy& copy) {
    const Place& place = PlaceAt(destinations, copy.destination, "destination");
    return Inside(place, copy.destination_offset, copy.rows, copy.row_bytes, copy.destination_pitch, "destination");
  };
  std::vector<DeviceCopy> copies;
  for (const StridedCopy& copy : ToStridedCopies(value, field)) {
    copies.push_back({from(copy), to(copy), copy.rows, copy.row_bytes, copy.source_pitch, copy.destination_pitch});
  }
  return copies;
}

}  // namespace ckpt::cuda
