// The addon as built without UCX's headers: it loads, and reports their absence.
#include <napi.h>

#include "ckpt/error.h"
#include "ckpt/napi/build_info.h"
#include "ckpt/napi/error.h"

namespace {

constexpr const char* kProblem =
    "it was built without the headers of UCX; install them (Debian and Ubuntu: apt-get install libucx-dev; Fedora: ucx-devel) "
    "and build it again";

Napi::Value Probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  result.Set("available", false);
  result.Set("problem", kProblem);
  result.Set("path", env.Undefined());
  result.Set("version", env.Undefined());
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  deferred.Resolve(result);
  return deferred.Promise();
}

Napi::Value Refuse(const Napi::CallbackInfo& info) {
  throw ckpt::ToJs(info.Env(), ckpt::Error(ckpt::code::kAddonUnavailable, std::string("@ckpt/native-ucx: ") + kProblem));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ckpt::ExportBuildInfo(env, exports);
  exports.Set("probe", Napi::Function::New(env, Probe, "probe"));
  for (const char* name : {"createWorker", "closeWorker", "registerViews", "closeRegion", "connect", "isAlive", "disconnect",
                           "newCancellation", "cancel", "transfer"}) {
    exports.Set(name, Napi::Function::New(env, Refuse, name));
  }
  return exports;
}

}  // namespace

NODE_API_MODULE(ckpt_ucx, Init)
