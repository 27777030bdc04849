#include "../engine/transfer.h"

#include <future>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/remote_copies.h"
#include "objects.h"

namespace ckpt::rdma {
namespace {

constexpr std::uint32_t kRemoteColumns = 2;
constexpr std::int64_t kProgressNs = 50'000'000;

/// Result of a batch.
struct Outcome {
  std::exception_ptr error;
  std::uint64_t bytes = 0;
};

Napi::Error WithStatus(Napi::Env env, std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const WorkError& error) {
    Napi::Error result = ToJs(env, static_cast<const Error&>(error));
    result.Value().Set("status", error.status());
    result.Value().Set("vendorError", error.vendor_error());
    if (error.remote()) result.Value().Set("region", *error.remote());
    return result;
  } catch (...) {
    return ToJs(env, std::current_exception());
  }
}

Napi::Array ToArray(const Napi::Value& value, const char* field) {
  if (!value.IsArray()) throw Error(ckpt::code::kInvalidArgument, std::string(field) + " must be an array").WithField(field);
  return value.As<Napi::Array>();
}

std::vector<Lane> ToLanes(const Napi::Value& value, std::size_t remotes) {
  const Napi::Array array = ToArray(value, "lanes");
  std::vector<Lane> lanes(array.Length());
  for (std::uint32_t i = 0; i < array.Length(); i++) {
    if (!array.Get(i).IsObject()) throw Error(ckpt::code::kInvalidArgument, "a lane must be an object").WithField("lanes");
    const auto object = array.Get(i).As<Napi::Object>();
    lanes[i].pair = Box<PairObject>::Get(object.Get("pair"), "queue pair")->pair;
    const Napi::Array local = ToArray(object.Get("local"), "local");
    for (std::uint32_t k = 0; k < local.Length(); k++) {
      lanes[i].local.push_back(Box<RegionObject>::Get(local.Get(k), "region")->region);
    }
    const auto keys = Column<Napi::Uint32Array>(object, "remoteKeys", napi_uint32_array, remotes);
    lanes[i].remote_keys.assign(keys.Data(), keys.Data() + remotes);
  }
  return lanes;
}

std::vector<Remote> ToRemotes(const Napi::Object& request) {
  const auto array = Column<Napi::BigUint64Array>(request, "remotes", napi_biguint64_array, 0);
  std::vector<Remote> remotes(array.ElementLength() / kRemoteColumns);
  for (std::size_t i = 0; i < remotes.size(); i++) remotes[i] = {array[i * kRemoteColumns], array[i * kRemoteColumns + 1]};
  return remotes;
}

/// transfer(request, cancellation, onProgress): Promise<bytes>. A thread of the environment's pool waits for the batch's end.
Napi::Value RunTransfer(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsObject()) throw Error(ckpt::code::kInvalidArgument, "the request must be an object").WithField("request");
    const auto request = info[0].As<Napi::Object>();
    auto batch = std::make_shared<Batch>();
    batch->direction = ToText(request.Get("direction"), "direction") == "write" ? Direction::kWrite : Direction::kRead;
    batch->remotes = ToRemotes(request);
    batch->lanes = ToLanes(request.Get("lanes"), batch->remotes.size());
    batch->copies = ToRemoteCopies(request.Get("transfers"));
    batch->piece_bytes = ToUnsigned(request.Get("pieceBytes"), "pieceBytes");
    batch->timeout_ns = static_cast<std::int64_t>(ToUnsigned(request.Get("timeoutMs"), "timeoutMs")) * 1'000'000;
    const auto cancellation = Box<CancellationObject>::Get(info[1], "cancellation");
    Environment::Options options;
    if (info[2].IsFunction()) options.progress = info[2].As<Napi::Function>();
    return Environment::Of(info.Env())
        .Run(
            [batch, cancellation](const Task& task) mutable {
              std::promise<Outcome> ended;
              std::int64_t reported = Now();
              const auto progress = [&task, &reported](std::uint64_t bytes) {
                const std::int64_t now = Now();
                if (now - reported < kProgressNs) return;
                reported = now;
                task.Report(static_cast<double>(bytes));
              };
              Outcome outcome;
              try {
                const auto transfer = Transfer::Start(
                    std::move(*batch), progress,
                    [&ended](std::exception_ptr error, std::uint64_t bytes) { ended.set_value({std::move(error), bytes}); });
                cancellation->Attach(transfer);
                outcome = ended.get_future().get();
              } catch (const Error&) {
                outcome.error = std::current_exception();
              }
              return outcome;
            },
            [](Napi::Env env, Outcome& outcome) -> Napi::Value {
              if (outcome.error) throw WithStatus(env, outcome.error);
              return Napi::Number::New(env, static_cast<double>(outcome.bytes));
            },
            options);
  });
}

/// newCancellation(): cancellation
Napi::Value NewCancellation(const Napi::CallbackInfo& info) {
  return Box<CancellationObject>::Wrap(info.Env(), std::make_shared<CancellationObject>());
}

/// cancel(cancellation)
Napi::Value Cancel(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Box<CancellationObject>::Get(info[0], "cancellation")->Cancel();
    return info.Env().Undefined();
  });
}

}  // namespace

void RegisterTransfer(Napi::Env env, Napi::Object exports) {
  exports.Set("transfer", Napi::Function::New(env, RunTransfer, "transfer"));
  exports.Set("newCancellation", Napi::Function::New(env, NewCancellation, "newCancellation"));
  exports.Set("cancel", Napi::Function::New(env, Cancel, "cancel"));
}

}  // namespace ckpt::rdma
