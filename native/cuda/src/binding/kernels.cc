#include <vector>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

/// A memory that kernels can address, and what keeps it there.
struct Place {
  abi::DevicePointer address;
  std::uint64_t bytes;
  std::shared_ptr<const void> hold;
};

/// Device memory or registered host memory. @throws Error INVALID_ARGUMENT, also for host memory that is not pinned.
Place ToPlace(const Napi::Value& value) {
  if (Box<RegistrationObject>::Is(value)) {
    const auto object = Box<RegistrationObject>::Get(value, "registration");
    if (object->registration == nullptr || !object->registration->pinned()) {
      throw Error(code::kInvalidArgument, "the host memory is not pinned, the GPU cannot read it").WithField("memories");
    }
    return {reinterpret_cast<abi::DevicePointer>(object->data), object->bytes, object};
  }
  const auto object = Box<MemoryObject>::Get(value, "memory");
  return {object->memory->pointer(), object->memory->bytes(), object};
}

std::vector<Place> ToPlaces(const Napi::Value& value) {
  if (!value.IsArray()) throw Error(code::kInvalidArgument, "memories must be an array").WithField("memories");
  std::vector<Place> places;
  for (std::uint32_t i = 0; i < value.As<Napi::Array>().Length(); i++)
    places.push_back(ToPlace(value.As<Napi::Array>().Get(i)));
  return places;
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

const Place& PlaceAt(const std::vector<Place>& places, double index, const char* field) {
  const std::uint64_t i = ToUnsigned(index, field);
  if (i >= places.size()) throw Error(code::kInvalidArgument, "there is no memory " + std::to_string(i)).WithField(field);
  return places[i];
}

/// Address of `rows` runs in a place. @throws Error INVALID_ARGUMENT when they leave it.
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

/// digest(device, memories, ranges): Promise<BigUint64Array>. Ranges: memory, offset, bytes of each.
Napi::Value Digest(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    auto places = ToPlaces(info[1]);
    const Napi::Float64Array rows = ToRows(info[2], 3, "ranges");
    std::vector<DeviceRange> ranges;
    for (std::size_t i = 0; i < rows.ElementLength(); i += 3) {
      const std::uint64_t bytes = ToUnsigned(rows[i + 2], "bytes");
      const Place& place = PlaceAt(places, rows[i], "memory");
      ranges.push_back({Inside(place, ToUnsigned(rows[i + 1], "offset"), 1, bytes, 0, "ranges"), bytes});
    }
    return Environment::Of(info.Env())
        .Run([device, places = std::move(places), ranges = std::move(ranges)](
                 const Task&) { return device->gpu->kernels()->Digest(ranges, device->gpu->stream()); },
             [](Napi::Env env, std::vector<std::uint64_t>& digests) -> Napi::Value {
               auto result = Napi::BigUint64Array::New(env, digests.size());
               for (std::size_t i = 0; i < digests.size(); i++) result[i] = digests[i];
               return result;
             });
  });
}

/// copyStrided(device, memories, copies): Promise<number of bytes>. Copies: the columns of StridedCopy.
Napi::Value CopyStrided(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    auto places = ToPlaces(info[1]);
    constexpr std::size_t kColumns = 8;
    const Napi::Float64Array flat = ToRows(info[2], kColumns, "copies");
    std::vector<DeviceCopy> copies;
    for (std::size_t i = 0; i < flat.ElementLength(); i += kColumns) {
      DeviceCopy copy{};
      copy.source_pitch = ToUnsigned(flat[i + 2], "sourcePitch");
      copy.destination_pitch = ToUnsigned(flat[i + 5], "destinationPitch");
      copy.row_bytes = ToUnsigned(flat[i + 6], "rowBytes");
      copy.rows = ToUnsigned(flat[i + 7], "rows");
      copy.source = Inside(PlaceAt(places, flat[i], "source"), ToUnsigned(flat[i + 1], "sourceOffset"), copy.rows,
                           copy.row_bytes, copy.source_pitch, "source");
      copy.destination = Inside(PlaceAt(places, flat[i + 3], "destination"), ToUnsigned(flat[i + 4], "destinationOffset"),
                                copy.rows, copy.row_bytes, copy.destination_pitch, "destination");
      copies.push_back(copy);
    }
    return Environment::Of(info.Env())
        .Run(
            [device, places = std::move(places), copies = std::move(copies)](const Task&) {
              const CopyList list(device->gpu->kernels(), copies, device->gpu->stream());
              list.Run(device->gpu->stream());
              device->gpu->stream().Synchronize();
              return static_cast<double>(list.bytes());
            },
            [](Napi::Env env, double& bytes) -> Napi::Value { return Napi::Number::New(env, bytes); });
  });
}

}  // namespace

void RegisterKernels(Napi::Env env, Napi::Object exports) {
  exports.Set("digest", Napi::Function::New(env, Digest, "digest"));
  exports.Set("copyStrided", Napi::Function::New(env, CopyStrided, "copyStrided"));
}

}  // namespace ckpt::cuda
