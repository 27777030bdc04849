#include "../engine/transfer.h"

#include <future>

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "ckpt/napi/remote_copies.h"
#include "objects.h"

namespace ckpt::ucx {
namespace {

constexpr std::int64_t kProgressNs = 50'000'000;

/// Result of a batch.
struct Outcome {
  std::exception_ptr error;
  std::uint64_t bytes = 0;
};

Napi::Array ToArray(const Napi::Value& value, const char* field) {
  if (!value.IsArray()) throw Error(code::kInvalidArgument, std::string(field) + " must be an array").WithField(field);
  return value.As<Napi::Array>();
}

Remote ToRemote(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(code::kInvalidArgument, "a remote region must be an object").WithField("remotes");
  const auto object = value.As<Napi::Object>();
  const Napi::Value address = object.Get("address"), key = object.Get("remoteKey");
  if (!address.IsBigInt() || !key.IsBuffer()) {
    throw Error(code::kInvalidArgument, "a remote region needs an address and a key").WithField("remotes");
  }
  bool lossless = false;
  const auto buffer = key.As<Napi::Buffer<char>>();
  return {address.As<Napi::BigInt>().Uint64Value(&lossless), ToUnsigned(object.Get("bytes"), "remotes"),
          std::string(buffer.Data(), buffer.Length())};
}

Batch ToBatch(const Napi::Object& request, const Connection& connection) {
  Batch batch;
  batch.direction = ToText(request.Get("direction"), "direction") == "write" ? Direction::kWrite : Direction::kRead;
  batch.link = connection.link();
  const Napi::Array remotes = ToArray(request.Get("remotes"), "remotes");
  for (std::uint32_t i = 0; i < remotes.Length(); i++) batch.remotes.push_back(ToRemote(remotes.Get(i)));
  const Napi::Array local = ToArray(request.Get("local"), "local");
  for (std::uint32_t i = 0; i < local.Length(); i++) {
    batch.locals.push_back(Box<RegionObject>::Get(local.Get(i), "region")->region);
  }
  batch.copies = ToRemoteCopies(request.Get("transfers"));
  batch.piece_bytes = ToUnsigned(request.Get("pieceBytes"), "pieceBytes");
  batch.depth = ToUnsigned(request.Get("depth"), "depth");
  batch.timeout_ns = static_cast<std::int64_t>(ToUnsigned(request.Get("timeoutMs"), "timeoutMs")) * 1'000'000;
  return batch;
}

/// transfer(request, cancellation, onProgress): Promise<bytes>. A thread of the environment's pool waits for the batch's end.
Napi::Value RunTransfer(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsObject()) throw Error(code::kInvalidArgument, "the request must be an object").WithField("request");
    const auto request = info[0].As<Napi::Object>();
    const auto connection = Box<ConnectionObject>::Get(request.Get("connection"), "connection")->connection;
    auto batch = std::make_shared<Batch>(ToBatch(request, *connection));
    const auto cancellation = Box<CancellationObject>::Get(info[1], "cancellation");
    Environment::Options options;
    if (info[2].IsFunction()) options.progress = info[2].As<Napi::Function>();
    return Environment::Of(info.Env())
        .Run(
            [batch, connection, cancellation](const Task& task) mutable {
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
                const auto transfer = std::make_shared<Transfer>(
                    std::move(*batch), progress,
                    [&ended](std::exception_ptr error, std::uint64_t bytes) { ended.set_value({std::move(error), bytes}); });
                const auto& loop = connection->loop();
                if (!loop->Post([transfer](Loop& on) { on.Start(transfer); })) throw Loop::Closed();
                cancellation->Attach(loop, transfer);
                outcome = ended.get_future().get();
              } catch (const Error&) {
                outcome.error = std::current_exception();
              }
              return outcome;
            },
            [](Napi::Env env, Outcome& outcome) -> Napi::Value {
              if (outcome.error) throw ToJs(env, outcome.error);
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

}  // namespace ckpt::ucx
