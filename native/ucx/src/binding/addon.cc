#include <napi.h>

#include "ckpt/napi/build_info.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ckpt::Environment::Init(env, "ckpt-ucx");
  ckpt::ExportBuildInfo(env, exports);
  ckpt::ucx::RegisterWorker(env, exports);
  ckpt::ucx::RegisterTransfer(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(ckpt_ucx, Init)
