#include "job.h"

#include "ckpt/napi/pipeline.h"

namespace ckpt::cuda {

Job ToJob(const Napi::Value& value, const MemoryObject& ring, std::vector<std::shared_ptr<const void>>& holds) {
  if (!value.IsObject()) throw Error(code::kInvalidArgument, "the job is not an object").WithField("job");
  const auto object = value.As<Napi::Object>();
  Job job;
  ReadPlan(object, job);
  if (job.arrive_in == ArriveIn::kRing) {
    throw Error(code::kUnsupported, "bytes cannot arrive in the ring of a GPU").WithField("arriveIn");
  }
  job.size = static_cast<std::uint32_t>(ToUnsigned(object.Get("size"), "size"));
  job.ring_bytes = ring.memory->bytes();
  job.order = object.Get("alternating").ToBoolean() ? Order::kAlternating : Order::kOverlapped;
  const Napi::Value sources = object.Get("sources");
  if (!sources.IsArray()) throw Error(code::kInvalidArgument, "sources is not an array").WithField("sources");
  for (std::uint32_t i = 0; i < sources.As<Napi::Array>().Length(); i++) {
    const auto source = Box<RegistrationObject>::Get(sources.As<Napi::Array>().Get(i), "registration");
    job.sources.push_back({source->data, source->bytes, source->registration ? source->registration->slice_bytes() : 0});
    holds.push_back(source);
  }
  return job;
}

}  // namespace ckpt::cuda
