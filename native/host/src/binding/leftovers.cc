#include "../engine/leftovers.h"

#include <string>

#include "ckpt/napi/environment.h"
#include "register.h"

namespace ckpt::host {
namespace {

std::string PathOf(const Napi::Value& value) {
  if (!value.IsString()) throw Error(code::kInvalidArgument, "path is not a string").WithField("path");
  return value.As<Napi::String>().Utf8Value();
}

/// inUse(path): true if a process has the file open or mapped; undefined if that is unknown
Napi::Value InUseOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto used = InUse(PathOf(info[0]));
    return used ? Napi::Boolean::New(info.Env(), *used) : info.Env().Undefined();
  });
}

/// removeAtEnd(path): forget(). A terminated worker thread cannot run JavaScript any more to remove what it created.
Napi::Value RemoveAtEnd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    const auto id = Environment::Of(env).AddShutdown([path = PathOf(info[0])] { RemoveLeftovers(path); });
    return Napi::Function::New(env, [id](const Napi::CallbackInfo& call) { Environment::Of(call.Env()).RemoveShutdown(id); });
  });
}

}  // namespace

void RegisterLeftovers(Napi::Env env, Napi::Object exports) {
  exports.Set("inUse", Napi::Function::New(env, InUseOf, "inUse"));
  exports.Set("removeAtEnd", Napi::Function::New(env, RemoveAtEnd, "removeAtEnd"));
}

}  // namespace ckpt::host
