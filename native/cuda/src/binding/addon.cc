#include <napi.h>

#include "ckpt/napi/build_info.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ckpt::ExportBuildInfo(env, exports);
  ckpt::Environment::Init(env, "ckpt-cuda");
  ckpt::cuda::RegisterProbe(env, exports);
  ckpt::cuda::RegisterMemory(env, exports);
  ckpt::cuda::RegisterDeviceReader(env, exports);
  ckpt::cuda::RegisterDirect(env, exports);
  ckpt::cuda::RegisterGroup(env, exports);
  ckpt::cuda::RegisterKernels(env, exports);
  ckpt::cuda::RegisterOrders(env, exports);
  ckpt::cuda::RegisterPipeline(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(ckpt_cuda, Init)
