#include "pipeline_arguments.h"

#include <string>
#include <utility>

#include "ckpt/napi/numbers.h"
#include "memory.h"

namespace ckpt::host {
namespace {

auto Integers(const Napi::Object& job, const char* field, std::size_t length) {
  return Column<Napi::Uint32Array>(job, field, napi_uint32_array, length);
}
auto Doubles(const Napi::Object& job, const char* field, std::size_t length) {
  return Column<Napi::Float64Array>(job, field, napi_float64_array, length);
}

void ReadBuckets(const Napi::Object& job, PipelineSpec& spec) {
  const auto count = static_cast<std::size_t>(ToUnsigned(job.Get("bucketCount"), "bucketCount"));
  const auto owner = Integers(job, "owner", count);
  const auto bytes = Doubles(job, "bytes", count);
  const auto ring_offset = Doubles(job, "ringOffset", count);
  const auto after = Column<Napi::Int32Array>(job, "after", napi_int32_array, count);
  const auto first_copy = Integers(job, "firstCopy", count + 1);
  spec.buckets.reserve(count);
  for (std::size_t b = 0; b < count; ++b) {
    spec.buckets.push_back({owner[b], ToUnsigned(bytes[b], "bytes"), ToUnsigned(ring_offset[b], "ringOffset"), after[b]});
  }
  spec.first_copy.assign(first_copy.Data(), first_copy.Data() + count + 1);
}

void ReadCopies(const Napi::Object& job, PipelineSpec& spec) {
  const auto count = static_cast<std::size_t>(ToUnsigned(job.Get("copyCount"), "copyCount"));
  const auto segment = Integers(job, "segment", count);
  const auto segment_offset = Doubles(job, "segmentOffset", count);
  const auto bucket_offset = Doubles(job, "bucketOffset", count);
  const auto bytes = Doubles(job, "copyBytes", count);
  spec.copies.reserve(count);
  for (std::size_t c = 0; c < count; ++c) {
    spec.copies.push_back({segment[c], ToUnsigned(segment_offset[c], "segmentOffset"),
                           ToUnsigned(bucket_offset[c], "bucketOffset"), ToUnsigned(bytes[c], "copyBytes")});
  }
}

}  // namespace

RingView ToRing(const Napi::Value& memory) {
  auto mapping = Memory::From(memory);
  auto* base = mapping->data();
  const auto size = mapping->size();
  const auto name = mapping->name();
  auto ring = ViewRing(base, size, std::move(mapping));
  if (!ring) throw Error(code::kInvalidArgument, "the memory '" + name + "' holds no ring").WithField("ring");
  return *std::move(ring);
}

PipelineSpec ToPipelineSpec(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(code::kInvalidArgument, "the job is not an object").WithField("job");
  const auto job = value.As<Napi::Object>();
  PipelineSpec spec;
  spec.position = static_cast<std::uint32_t>(ToUnsigned(job.Get("position"), "position"));
  spec.generation = ToUnsigned(job.Get("generation"), "generation");
  spec.chunk_bytes = ToUnsigned(job.Get("chunkBytes"), "chunkBytes");
  spec.timeout_ms = ToUnsigned(job.Get("timeoutMs"), "timeoutMs");
  spec.serial = job.Get("serial").ToBoolean();
  const Napi::Value arrive_in = job.Get("arriveIn");
  if (!arrive_in.IsUndefined()) {
    const auto place = ToText(arrive_in, "arriveIn");
    if (place != "sources" && place != "ring") {
      throw Error(code::kInvalidArgument, "arriveIn is '" + place + "'").WithField("arriveIn");
    }
    spec.arrive_in = place == "ring" ? ArriveIn::kRing : ArriveIn::kSources;
  }
  const Napi::Value rings = job.Get("rings");
  if (!rings.IsArray()) throw Error(code::kInvalidArgument, "rings is not an array").WithField("rings");
  for (std::uint32_t i = 0; i < rings.As<Napi::Array>().Length(); ++i)
    spec.rings.push_back(ToRing(rings.As<Napi::Array>().Get(i)));
  for (auto& mapping : Memory::FromArray(job.Get("sources"))) {
    const auto* data = mapping->data();
    const auto size = mapping->size();
    spec.sources.push_back({data, size, std::move(mapping)});
  }
  ReadBuckets(job, spec);
  ReadCopies(job, spec);
  return spec;
}

}  // namespace ckpt::host
