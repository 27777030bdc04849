#include "job.h"

#include <algorithm>

#include "ckpt/napi/numbers.h"

namespace ckpt::cuda {

Job ToJob(const Napi::Object& object, const MemoryObject& ring, std::vector<std::shared_ptr<const void>>& holds) {
  Job job;
  job.position = static_cast<std::uint32_t>(ToUnsigned(object.Get("position"), "position"));
  job.size = static_cast<std::uint32_t>(ToUnsigned(object.Get("size"), "size"));
  job.ring_bytes = ring.memory->bytes();
  job.chunk_bytes = ToUnsigned(object.Get("chunkBytes"), "chunkBytes");
  job.serial = object.Get("serial").ToBoolean();
  job.arrivals = object.Get("arrivals").ToBoolean();
  job.order = object.Get("alternating").ToBoolean() ? Order::kAlternating : Order::kOverlapped;
  job.timeout_ms = static_cast<int>(std::min<std::uint64_t>(ToUnsigned(object.Get("timeoutMs"), "timeoutMs"), 1 << 30));
  const Napi::Value sources = object.Get("sources");
  if (!sources.IsArray()) throw Error(code::kInvalidArgument, "sources is not an array").WithField("sources");
  for (std::uint32_t i = 0; i < sources.As<Napi::Array>().Length(); i++) {
    const auto source = Box<RegistrationObject>::Get(sources.As<Napi::Array>().Get(i), "registration");
    job.sources.push_back({source->data, source->bytes, source->registration ? source->registration->slice_bytes() : 0});
    holds.push_back(source);
  }
  const auto count = static_cast<std::size_t>(ToUnsigned(object.Get("bucketCount"), "bucketCount"));
  const auto owner = Column<Napi::Uint32Array>(object, "owner", napi_uint32_array, count);
  const auto bytes = Column<Napi::Float64Array>(object, "bytes", napi_float64_array, count);
  const auto ring_offset = Column<Napi::Float64Array>(object, "ringOffset", napi_float64_array, count);
  const auto after = Column<Napi::Int32Array>(object, "after", napi_int32_array, count);
  const auto first_copy = Column<Napi::Uint32Array>(object, "firstCopy", napi_uint32_array, count + 1);
  for (std::size_t b = 0; b < count; b++) {
    job.buckets.push_back({owner[b], ToUnsigned(bytes[b], "bytes"), ToUnsigned(ring_offset[b], "ringOffset"), after[b]});
  }
  job.first_copy.assign(first_copy.Data(), first_copy.Data() + count + 1);
  const auto copies = static_cast<std::size_t>(ToUnsigned(object.Get("copyCount"), "copyCount"));
  const auto segment = Column<Napi::Uint32Array>(object, "segment", napi_uint32_array, copies);
  const auto segment_offset = Column<Napi::Float64Array>(object, "segmentOffset", napi_float64_array, copies);
  const auto bucket_offset = Column<Napi::Float64Array>(object, "bucketOffset", napi_float64_array, copies);
  const auto copy_bytes = Column<Napi::Float64Array>(object, "copyBytes", napi_float64_array, copies);
  for (std::size_t c = 0; c < copies; c++) {
    job.copies.push_back({segment[c], ToUnsigned(segment_offset[c], "segmentOffset"),
                          ToUnsigned(bucket_offset[c], "bucketOffset"), ToUnsigned(copy_bytes[c], "copyBytes")});
  }
  return job;
}

}  // namespace ckpt::cuda
