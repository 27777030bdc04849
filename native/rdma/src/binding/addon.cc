#include <napi.h>

#include "ckpt/napi/build_info.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  ckpt::Environment::Init(env, "ckpt-rdma");
  ckpt::ExportBuildInfo(env, exports);
  ckpt::rdma::RegisterProbe(env, exports);
  ckpt::rdma::RegisterDevice(env, exports);
  ckpt::rdma::RegisterRegion(env, exports);
  ckpt::rdma::RegisterPair(env, exports);
  ckpt::rdma::RegisterTransfer(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(ckpt_rdma, Init)
