#include <array>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "../engine/tcp_peer.h"
#include "../engine/tcp_server.h"
#include "cancellation.h"
#include "ckpt/napi/copies.h"
#include "ckpt/napi/environment.h"
#include "memory.h"
#include "register.h"

namespace ckpt::host {
namespace {

std::vector<TcpAddress> ToAddresses(const Napi::Value& value) {
  if (!value.IsArray()) throw Error(code::kInvalidArgument, "addresses must be an array").WithField("addresses");
  const auto array = value.As<Napi::Array>();
  std::vector<TcpAddress> addresses;
  for (std::uint32_t i = 0; i < array.Length(); ++i) addresses.push_back(ParseTcpAddress(ToText(array.Get(i), "addresses")));
  return addresses;
}

Napi::Value Nothing(Napi::Env env, std::monostate&) { return env.Undefined(); }

/// Stops `thing` (whose threads must not outlive the environment) when the environment ends, unless it was stopped before.
template <class Thing, class Stop>
std::function<void()> StopAtEnd(Environment& environment, const std::shared_ptr<Thing>& thing, Stop stop) {
  const auto id = environment.AddShutdown([thing, stop] { stop(*thing); });
  return [&environment, id] { environment.RemoveShutdown(id); };
}

/// On a thread of the pool, because threads are joined.
template <class Thing, class Stop>
Napi::Value CloseLater(Napi::Env env, const std::shared_ptr<Thing>& thing, const std::function<void()>& forget, Stop stop) {
  forget();
  return Environment::Of(env).Run(
      [thing, stop](const Task&) {
        stop(*thing);
        return std::monostate{};
      },
      Nothing);
}

void StopServer(TcpServer& server) { server.Stop(); }
void ClosePeer(TcpPeer& peer) { peer.Close(); }

Napi::Value Register(const Napi::CallbackInfo& info, TcpServer& server) {
  auto mapping = Memory::From(info[0]);
  const auto offset = ToUnsigned(info[1], "offset");
  const auto bytes = ToUnsigned(info[2], "bytes");
  if (offset > mapping->size() || bytes > mapping->size() - offset) {
    throw Error(code::kInvalidArgument, std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                            " are outside the memory (" + std::to_string(mapping->size()) + " bytes)")
        .WithField("bytes");
  }
  const auto* data = mapping->data() + offset;
  const auto key = server.regions().Add(data, bytes, std::move(mapping));
  return Napi::String::New(info.Env(), ToHex(key.data(), key.size()));
}

/// unregister(key): closes the region immediately, resolves when it is not used any more.
Napi::Value Unregister(const Napi::CallbackInfo& info, const std::shared_ptr<TcpServer>& server) {
  RegionKey key;
  FromHex(ToText(info[0], "key"), key.data(), key.size(), "key");
  auto region = server->regions().Close(key);
  return Environment::Of(info.Env())
      .Run(
          [server, region = std::move(region)](const Task&) {
            if (region) server->regions().AwaitUnused(*region);
            return std::monostate{};
          },
          Nothing);
}

constexpr std::array<const char*, 3> kProtections{"none", "authenticated", "encrypted"};

Protection ToProtection(const Napi::Value& value) {
  if (value.IsUndefined()) return Protection::kAuthenticated;
  const auto text = ToText(value, "protection");
  for (std::size_t i = 0; i < kProtections.size(); ++i) {
    if (text == kProtections[i]) return static_cast<Protection>(i);
  }
  throw Error(code::kInvalidArgument, "protection '" + text + "' is not none, authenticated or encrypted")
      .WithField("protection");
}

/// createTcpEndpoint(addresses, secret, niceness, protection): endpoint
Napi::Value CreateEndpoint(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    TcpServerOptions options{ToAddresses(info[0]), ToText(info[1], "secret")};
    if (!info[2].IsUndefined()) options.niceness = static_cast<int>(ToUnsigned(info[2], "niceness"));
    options.protection = ToProtection(info[3]);
    const auto server = std::make_shared<TcpServer>(std::move(options));
    const auto forget = StopAtEnd(Environment::Of(env), server, StopServer);
    auto addresses = Napi::Array::New(env);
    for (const auto& address : server->addresses()) addresses.Set(addresses.Length(), AddressText(address));
    Napi::Object endpoint = Napi::Object::New(env);
    endpoint.Set("id", ToHex(server->id().data(), server->id().size()));
    endpoint.Set("protocol", static_cast<double>(kTcpProtocol));
    endpoint.Set("addresses", addresses);
    const auto method = [&](const char* name, auto body) {
      endpoint.Set(name, Napi::Function::New(
                             env,
                             [server = server, body](const Napi::CallbackInfo& call) {
                               return Guard(call.Env(), [&] { return Napi::Value(body(call, server)); });
                             },
                             name));
    };
    using Server = std::shared_ptr<TcpServer>;
    method("register", [](const Napi::CallbackInfo& call, const Server& one) { return Register(call, *one); });
    method("unregister", [](const Napi::CallbackInfo& call, const Server& one) { return Unregister(call, one); });
    method("servedBytes", [](const Napi::CallbackInfo& call, const Server& one) -> Napi::Value {
      return Napi::Number::New(call.Env(), static_cast<double>(one->served_bytes()));
    });
    method("connections", [](const Napi::CallbackInfo& call, const Server& one) -> Napi::Value {
      return Napi::Number::New(call.Env(), static_cast<double>(one->connections()));
    });
    method("close", [forget](const Napi::CallbackInfo& call, const Server& one) {
      return CloseLater(call.Env(), one, forget, StopServer);
    });
    return endpoint;
  });
}

/// read(keys, memories, rows, timeoutMs, onProgress, cancellation): Promise<number>
Napi::Value Read(const Napi::CallbackInfo& info, const std::shared_ptr<TcpPeer>& peer) {
  if (!info[0].IsArray()) throw Error(code::kInvalidArgument, "regions must be an array").WithField("regions");
  const auto list = info[0].As<Napi::Array>();
  std::vector<RegionKey> keys(list.Length());
  for (std::uint32_t i = 0; i < list.Length(); ++i) {
    FromHex(ToText(list.Get(i), "regions"), keys[i].data(), keys[i].size(), "regions");
  }
  auto memories = Memory::FromArray(info[1]);
  const auto transfers = ToContiguousCopies(info[2], "transfers");
  std::vector<TcpRead> reads;
  reads.reserve(transfers.size());
  for (const auto& [region, offset, memory, target, bytes] : transfers) {
    const auto invalid = [&](const std::string& what) {
      return Error(code::kInvalidArgument, "transfer " + std::to_string(reads.size()) + ": " + what).WithField("transfers");
    };
    if (region >= keys.size()) throw invalid("region " + std::to_string(region) + " of " + std::to_string(keys.size()));
    if (memory >= memories.size()) throw invalid("memory " + std::to_string(memory) + " of " + std::to_string(memories.size()));
    if (target > memories[memory]->size() || bytes > memories[memory]->size() - target) {
      throw invalid(std::to_string(bytes) + " bytes at " + std::to_string(target) + " are outside memory " +
                    std::to_string(memory));
    }
    reads.push_back({keys[region], offset, memories[memory]->data() + target, bytes, static_cast<std::uint32_t>(region)});
  }
  const std::chrono::milliseconds patience(ToUnsigned(info[3], "timeoutMs"));
  Environment::Options options;
  if (info[4].IsFunction()) options.progress = info[4].As<Napi::Function>();
  options.cancellation = CancellationObject::From(info[5]);
  return Environment::Of(info.Env())
      .Run(
          // The task holds the memories that the streams write to.
          [peer, reads = std::move(reads), memories = std::move(memories), patience](const Task& task) {
            return peer->Read(reads, patience, task.cancellation(),
                              [&](std::uint64_t bytes) { task.Report(static_cast<double>(bytes)); });
          },
          [](Napi::Env env, std::uint64_t& bytes) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(bytes)); },
          std::move(options));
}

Napi::Value WrapPeer(Napi::Env env, const std::shared_ptr<TcpPeer>& peer) {
  const auto forget = StopAtEnd(Environment::Of(env), peer, ClosePeer);
  Napi::Object object = Napi::Object::New(env);
  const auto method = [&](const char* name, auto body) {
    object.Set(name, Napi::Function::New(
                         env,
                         [peer = peer, body](const Napi::CallbackInfo& call) {
                           return Guard(call.Env(), [&] { return Napi::Value(body(call, peer)); });
                         },
                         name));
  };
  using Peer = std::shared_ptr<TcpPeer>;
  method("read", [](const Napi::CallbackInfo& call, const Peer& one) { return Read(call, one); });
  object.Set("protection", kProtections[static_cast<std::size_t>(peer->protection())]);
  object.Set("cipher", DataCipherText(peer->cipher()));
  method("alive", [](const Napi::CallbackInfo& call, const Peer& one) -> Napi::Value {
    return Napi::Boolean::New(call.Env(), one->alive());
  });
  method("close",
         [forget](const Napi::CallbackInfo& call, const Peer& one) { return CloseLater(call.Env(), one, forget, ClosePeer); });
  return object;
}

/// connectTcpPeer(id, addresses, secret, streams, timeoutMs, protection, cancellation): Promise<peer>
Napi::Value Connect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    TcpPeerOptions options;
    FromHex(ToText(info[0], "id"), options.endpoint.data(), options.endpoint.size(), "id");
    options.addresses = ToAddresses(info[1]);
    options.secret = ToText(info[2], "secret");
    options.streams = ToThreads(info[3]);
    options.timeout = std::chrono::milliseconds(ToUnsigned(info[4], "timeoutMs"));
    options.protection = ToProtection(info[5]);
    Environment::Options run;
    run.cancellation = CancellationObject::From(info[6]);
    return Environment::Of(info.Env())
        .Run([options =
                  std::move(options)](const Task& task) { return std::make_shared<TcpPeer>(options, task.cancellation()); },
             [](Napi::Env env, std::shared_ptr<TcpPeer>& peer) -> Napi::Value { return WrapPeer(env, peer); }, std::move(run));
  });
}

}  // namespace

void RegisterOneSided(Napi::Env env, Napi::Object exports) {
  exports.Set("createTcpEndpoint", Napi::Function::New(env, CreateEndpoint, "createTcpEndpoint"));
  exports.Set("connectTcpPeer", Napi::Function::New(env, Connect, "connectTcpPeer"));
}

}  // namespace ckpt::host
