#include <napi.h>

#include "ckpt/napi/build_info.h"
#include "ckpt/napi/environment.h"
#include "register.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ckpt::Environment::Init(env, "ckpt-host");
  ckpt::ExportBuildInfo(env, exports);
  ckpt::host::RegisterLimits(env, exports);
  ckpt::host::RegisterMemory(env, exports);
  ckpt::host::RegisterTransfer(env, exports);
  ckpt::host::RegisterPipeline(env, exports);
  ckpt::host::RegisterOneSided(env, exports);
  ckpt::host::RegisterLeftovers(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(ckpt_host, Init)
