#include <vector>

#include "ckpt/napi/columns.h"
#include "ckpt/napi/environment.h"
#include "objects.h"
#include "places.h"

namespace ckpt::cuda {
namespace {

/// Device memory or registered host memory. @throws Error INVALID_ARGUMENT, also for host memory that is not pinned.
Place ToPlace(const Napi::Value& value) {
  if (Box<RegistrationObject>::Is(value)) return PlaceOf(Box<RegistrationObject>::Get(value, "registration"));
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

/// digest(device, memories, ranges): Promise<BigUint64Array>. Ranges: memory, offset, bytes of each.
Napi::Value Digest(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    auto places = ToPlaces(info[1]);
    const auto ranges = ToRows(info[2], 3, "ranges", [&places](const double* row) {
      const std::uint64_t bytes = ToUnsigned(row[2], "bytes");
      const Place& place = PlaceAt(places, ToUnsigned(row[0], "memory"), "memory");
      return DeviceRange{Inside(place, ToUnsigned(row[1], "offset"), 1, bytes, 0, "ranges"), bytes};
    });
    return Environment::Of(info.Env())
        .Run([device, places = std::move(places),
              ranges](const Task&) { return device->gpu->kernels()->Digest(ranges, device->gpu->stream()); },
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
    auto copies = ToCopies(info[2], places, places, "copies");
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
