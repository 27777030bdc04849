#include "pipeline_arguments.h"

#include <string>
#include <utility>

#include "ckpt/napi/pipeline.h"
#include "memory.h"

namespace ckpt::host {
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
  ReadPlan(job, spec);
  spec.generation = ToUnsigned(job.Get("generation"), "generation");
  const Napi::Value rings = job.Get("rings");
  if (!rings.IsArray()) throw Error(code::kInvalidArgument, "rings is not an array").WithField("rings");
  for (std::uint32_t i = 0; i < rings.As<Napi::Array>().Length(); ++i)
    spec.rings.push_back(ToRing(rings.As<Napi::Array>().Get(i)));
  for (auto& mapping : Memory::FromArray(job.Get("sources"))) {
    const auto* data = mapping->data();
    const auto size = mapping->size();
    spec.sources.push_back({data, size, std::move(mapping)});
  }
  return spec;
}

}  // namespace ckpt::host
