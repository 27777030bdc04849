#include "../engine/order_probe.h"
#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "job.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

constexpr std::size_t kColumns = 3;

std::vector<OrderCandidate> ToCandidates(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
      value.As<Napi::TypedArray>().ElementLength() % kColumns != 0) {
    throw Error(code::kInvalidArgument, "candidates must be a Float64Array of 3 columns").WithField("candidates");
  }
  const auto rows = value.As<Napi::Float64Array>();
  std::vector<OrderCandidate> candidates;
  for (std::size_t i = 0; i < rows.ElementLength(); i += kColumns) {
    const Order order = rows[i] != 0 ? Order::kAlternating : Order::kOverlapped;
    candidates.push_back({order, ToUnsigned(rows[i + 1], "chunkBytes"), ToUnsigned(rows[i + 2], "bytes")});
  }
  return candidates;
}

/// measureOrders(group, ring, job, candidates, cancellation): Promise<Float64Array>. Candidates: whether alternating,
/// chunkBytes, bytes of each; the result has whole, h2d, broadcast (milliseconds) of each.
Napi::Value MeasureOrdersOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto group = Box<GroupObject>::Get(info[0], "group");
    const auto ring = Box<MemoryObject>::Get(info[1], "ring");
    if (!info[2].IsObject()) throw Error(code::kInvalidArgument, "the job is not an object").WithField("job");
    std::vector<std::shared_ptr<const void>> holds;
    const auto schedule = std::make_shared<const Schedule>(ToJob(info[2].As<Napi::Object>(), *ring, holds));
    Environment::Options options;
    options.cancellation = Box<CancellationObject>::Get(info[4], "cancellation")->cancellation;
    return Environment::Of(info.Env())
        .Run(
            [group, ring, schedule, holds = std::move(holds), candidates = ToCandidates(info[3])](const Task& task) {
              return MeasureOrders({group->gpu->context(), ring->memory, group->h2d, group->broadcast, group->communicator},
                                   *schedule, candidates, task.cancellation());
            },
            [](Napi::Env env, std::vector<OrderFigures>& figures) -> Napi::Value {
              auto rows = Napi::Float64Array::New(env, figures.size() * kColumns);
              for (std::size_t i = 0; i < figures.size(); i++) {
                rows[i * kColumns] = figures[i].whole;
                rows[i * kColumns + 1] = figures[i].h2d;
                rows[i * kColumns + 2] = figures[i].broadcast;
              }
              return rows;
            },
            std::move(options));
  });
}

}  // namespace

void RegisterOrders(Napi::Env env, Napi::Object exports) {
  exports.Set("measureOrders", Napi::Function::New(env, MeasureOrdersOf, "measureOrders"));
}

}  // namespace ckpt::cuda
