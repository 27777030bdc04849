#include "../engine/order_probe.h"
#include "ckpt/napi/columns.h"
#include "ckpt/napi/environment.h"
#include "job.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

constexpr std::size_t kColumns = 3;

std::vector<OrderCandidate> ToCandidates(const Napi::Value& value) {
  return ToRows(value, kColumns, "candidates", [](const double* row) {
    const Order order = row[0] != 0 ? Order::kAlternating : Order::kOverlapped;
    return OrderCandidate{order, ToUnsigned(row[1], "chunkBytes"), ToUnsigned(row[2], "bytes")};
  });
}

/// measureOrders(group, ring, job, candidates, cancellation): Promise<Float64Array>. Candidates: whether alternating,
/// chunkBytes and bytes of each; the result has total, h2d and broadcast (milliseconds) of each.
Napi::Value MeasureOrdersOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto group = Box<GroupObject>::Get(info[0], "group");
    const auto ring = Box<MemoryObject>::Get(info[1], "ring");
    std::vector<std::shared_ptr<const void>> holds;
    const auto schedule = std::make_shared<const Schedule>(ToJob(info[2], *ring, holds));
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
