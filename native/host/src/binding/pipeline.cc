#include "register.h"

namespace ckpt::host {

void RegisterPipeline(Napi::Env, Napi::Object) {}

}  // namespace ckpt::host
