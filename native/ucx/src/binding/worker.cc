#include "../engine/worker.h"

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "ckpt/napi/views.h"
#include "objects.h"

namespace ckpt::ucx {
namespace {

Napi::Value TextOrNothing(Napi::Env env, const std::string& text) {
  return text.empty() ? env.Undefined() : Napi::Value(Napi::String::New(env, text));
}

Napi::Value ToBuffer(Napi::Env env, const std::string& bytes) {
  return Napi::Buffer<char>::Copy(env, bytes.data(), bytes.size());
}

/// probe(): Promise<what exists and what is missing>. Never rejects for missing parts.
Napi::Value Probe(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env())
      .Run([](const Task&) { return &Ucx::Get(); },
           [](Napi::Env env, const Ucx*& ucx) -> Napi::Value {
             Napi::Object result = Napi::Object::New(env);
             result.Set("available", ucx->problem().empty());
             result.Set("problem", TextOrNothing(env, ucx->problem()));
             result.Set("path", TextOrNothing(env, ucx->library().path()));
             result.Set("version", TextOrNothing(env, ucx->version()));
             return result;
           });
}

/// createWorker(transports): Promise<{ handle, address, resources }>
Napi::Value CreateWorker(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string transports = ToText(info[0], "transports");
    return Environment::Of(info.Env())
        .Run(
            [transports](const Task&) {
              auto object = std::make_shared<WorkerObject>();
              object->worker = std::make_shared<Worker>(transports);
              return object;
            },
            [](Napi::Env env, std::shared_ptr<WorkerObject>& object) -> Napi::Value {
              // The thread must end before the environment does, whatever still holds the worker.
              object->shutdown = Environment::Of(env).AddShutdown([worker = std::weak_ptr<Worker>(object->worker)] {
                if (const auto held = worker.lock(); held != nullptr) held->Stop();
              });
              Napi::Object result = Napi::Object::New(env);
              result.Set("address", ToBuffer(env, object->worker->loop()->address()));
              result.Set("resources", object->worker->loop()->resources());
              result.Set("handle", Box<WorkerObject>::Wrap(env, std::move(object)));
              return result;
            });
  });
}

/// closeWorker(worker): Promise<void>. Running batches end with ABORTED; objects created from it are no longer usable.
Napi::Value CloseWorker(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto object = Box<WorkerObject>::Take(info[0], "worker");
    return Environment::Of(info.Env())
        .Run(
            [object](const Task&) mutable {
              std::uint64_t shutdown = 0;
              if (object != nullptr) {
                object->worker->Stop();
                shutdown = object->shutdown;
              }
              object = nullptr;
              return shutdown;
            },
            [](Napi::Env env, std::uint64_t& shutdown) -> Napi::Value {
              if (shutdown != 0) Environment::Of(env).RemoveShutdown(shutdown);
              return env.Undefined();
            });
  });
}

/// registerViews(worker, views): Promise<region>. The views are consecutive parts of one memory.
Napi::Value RegisterViews(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto loop = Box<WorkerObject>::Get(info[0], "worker")->worker->loop();
    const MemoryRange range = ToRange(info[1]);
    return Environment::Of(info.Env())
        .Run(
            [loop, range](const Task&) {
              auto object = std::make_shared<RegionObject>();
              object->region = Register(loop, range.data, range.bytes);
              return object;
            },
            [](Napi::Env env, std::shared_ptr<RegionObject>& object) -> Napi::Value {
              const Region& region = *object->region;
              Napi::Object result = Napi::Object::New(env);
              result.Set("address", Napi::BigInt::New(env, reinterpret_cast<std::uint64_t>(region.address())));
              result.Set("bytes", static_cast<double>(region.bytes()));
              result.Set("remoteKey", ToBuffer(env, region.key()));
              result.Set("handle", Box<RegionObject>::Wrap(env, std::move(object)));
              return result;
            });
  });
}

/// closeRegion(region): Promise<void>. Resolves when UCX has released the memory: batches that use it end first.
Napi::Value CloseRegion(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto object = Box<RegionObject>::Take(info[0], "region");
    return Environment::Of(info.Env())
        .Run(
            [object](const Task&) mutable {
              if (object == nullptr) return 0;
              const std::shared_future<void> gone = object->region->gone();
              object = nullptr;
              gone.wait();
              return 0;
            },
            [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
  });
}

/// connect(worker, address, timeoutMs): Promise<{ handle, description }>
Napi::Value Connect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto loop = Box<WorkerObject>::Get(info[0], "worker")->worker->loop();
    if (!info[1].IsBuffer()) throw Error(code::kInvalidArgument, "the address must be a Buffer").WithField("address");
    const auto buffer = info[1].As<Napi::Buffer<char>>();
    const std::string address(buffer.Data(), buffer.Length());
    const auto timeout_ns = static_cast<std::int64_t>(ToUnsigned(info[2], "timeoutMs")) * 1'000'000;
    return Environment::Of(info.Env())
        .Run(
            [loop, address, timeout_ns](const Task&) {
              auto object = std::make_shared<ConnectionObject>();
              object->connection = std::make_shared<Connection>(loop, address, timeout_ns);
              return object;
            },
            [](Napi::Env env, std::shared_ptr<ConnectionObject>& object) -> Napi::Value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("description", object->connection->description());
              result.Set("handle", Box<ConnectionObject>::Wrap(env, std::move(object)));
              return result;
            });
  });
}

/// isAlive(connection): boolean
Napi::Value IsAlive(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), Box<ConnectionObject>::Get(info[0], "connection")->connection->alive());
  });
}

/// disconnect(connection). Running batches end with ABORTED.
Napi::Value Disconnect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Box<ConnectionObject>::Get(info[0], "connection")->connection->Close();
    return info.Env().Undefined();
  });
}

}  // namespace

void RegisterWorker(Napi::Env env, Napi::Object exports) {
  exports.Set("probe", Napi::Function::New(env, Probe, "probe"));
  exports.Set("createWorker", Napi::Function::New(env, CreateWorker, "createWorker"));
  exports.Set("closeWorker", Napi::Function::New(env, CloseWorker, "closeWorker"));
  exports.Set("registerViews", Napi::Function::New(env, RegisterViews, "registerViews"));
  exports.Set("closeRegion", Napi::Function::New(env, CloseRegion, "closeRegion"));
  exports.Set("connect", Napi::Function::New(env, Connect, "connect"));
  exports.Set("isAlive", Napi::Function::New(env, IsAlive, "isAlive"));
  exports.Set("disconnect", Napi::Function::New(env, Disconnect, "disconnect"));
}

}  // namespace ckpt::ucx
