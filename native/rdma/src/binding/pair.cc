#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "objects.h"

namespace ckpt::rdma {
namespace {

constexpr std::uint64_t kMostInt = 0x7fffffff;

int ToInt(const Napi::Object& object, const char* field) {
  const std::uint64_t value = ToUnsigned(object.Get(field), field);
  if (value > kMostInt) throw Error(ckpt::code::kInvalidArgument, std::string(field) + " is too large").WithField(field);
  return static_cast<int>(value);
}

Napi::Object ToObject(const Napi::Value& value, const char* field) {
  if (!value.IsObject()) throw Error(ckpt::code::kInvalidArgument, std::string(field) + " must be an object").WithField(field);
  return value.As<Napi::Object>();
}

Napi::Object ToJs(Napi::Env env, const Endpoint& endpoint) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("queuePair", endpoint.queue_pair);
  result.Set("packetSequence", endpoint.packet_sequence);
  result.Set("lid", endpoint.lid);
  result.Set("gid", GidText(endpoint.gid));
  result.Set("mtu", endpoint.mtu);
  result.Set("readsIn", endpoint.reads_in);
  return result;
}

Endpoint ToEndpoint(const Napi::Object& object) {
  Endpoint endpoint;
  endpoint.queue_pair = static_cast<std::uint32_t>(ToInt(object, "queuePair"));
  endpoint.packet_sequence = static_cast<std::uint32_t>(ToInt(object, "packetSequence"));
  endpoint.lid = static_cast<std::uint32_t>(ToInt(object, "lid"));
  endpoint.gid = ParseGid(ToText(object.Get("gid"), "gid"), "gid");
  endpoint.mtu = ToInt(object, "mtu");
  endpoint.reads_in = ToInt(object, "readsIn");
  return endpoint;
}

/// createPair(device, { port, gidIndex, depth }): Promise<{ handle, local }>
Napi::Value CreatePair(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto device = Box<DeviceObject>::Get(info[0], "device");
    const Napi::Object object = ToObject(info[1], "options");
    QueuePairOptions options;
    options.port = ToInt(object, "port");
    options.gid_index = ToInt(object, "gidIndex");
    options.depth = ToInt(object, "depth");
    return Environment::Of(info.Env())
        .Run(
            [device, options](const Task&) {
              auto pair = std::make_shared<PairObject>();
              pair->pair = std::make_shared<QueuePair>(device->context, device->loop, options);
              return pair;
            },
            [](Napi::Env env, std::shared_ptr<PairObject>& pair) -> Napi::Value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("local", ToJs(env, pair->pair->local()));
              result.Set("handle", Box<PairObject>::Wrap(env, std::move(pair)));
              return result;
            });
  });
}

/// connectPair(pair, endpoint, { timeout, retries, trafficClass, serviceLevel }): Promise<void>
Napi::Value ConnectPair(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto pair = Box<PairObject>::Get(info[0], "queue pair");
    const Endpoint remote = ToEndpoint(ToObject(info[1], "endpoint"));
    const Napi::Object object = ToObject(info[2], "options");
    ConnectOptions options;
    options.timeout = ToInt(object, "timeout");
    options.retries = ToInt(object, "retries");
    options.traffic_class = ToInt(object, "trafficClass");
    options.service_level = ToInt(object, "serviceLevel");
    return Environment::Of(info.Env())
        .Run([pair, remote, options](const Task&) { return pair->pair->Connect(remote, options), 0; },
             [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
  });
}

/// closePair(pair): Promise<void>. Its requests in flight for a batch fail.
Napi::Value ClosePair(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto pair = Box<PairObject>::Take(info[0], "queue pair");
    return Environment::Of(info.Env())
        .Run(
            [pair](const Task&) mutable {
              if (pair != nullptr) pair->pair->loop().Retire(pair->pair);
              return pair = nullptr, 0;
            },
            [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void RegisterPair(Napi::Env env, Napi::Object exports) {
  exports.Set("createPair", Napi::Function::New(env, CreatePair, "createPair"));
  exports.Set("connectPair", Napi::Function::New(env, ConnectPair, "connectPair"));
  exports.Set("closePair", Napi::Function::New(env, ClosePair, "closePair"));
}

}  // namespace ckpt::rdma
