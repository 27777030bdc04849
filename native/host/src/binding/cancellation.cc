#include "cancellation.h"

#include "ckpt/napi/environment.h"

namespace ckpt::host {
namespace {

constexpr napi_type_tag kTag = {0x636b70742d686f73, 0x742d63616e63656c};
constexpr const char* kConstructor = "Cancellation";

}  // namespace

void CancellationObject::Register(Napi::Env env, Napi::Object exports) {
  Environment::Of(env).Keep(kConstructor,
                            DefineClass(env, kConstructor, {InstanceMethod<&CancellationObject::Cancel>("cancel")}));
  exports.Set("newCancellation",
              Napi::Function::New(
                  env, [](const Napi::CallbackInfo& info) { return Environment::Of(info.Env()).Kept(kConstructor).New({}); },
                  "newCancellation"));
}

std::shared_ptr<Cancellation> CancellationObject::From(const Napi::Value& value) {
  if (value.IsUndefined()) return nullptr;
  bool tagged = false;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, &kTag, &tagged) == napi_ok && tagged) {
    return Unwrap(value.As<Napi::Object>())->cancellation_;
  }
  throw Error(code::kInvalidArgument, "not a cancellation of this addon").WithField("cancellation");
}

CancellationObject::CancellationObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CancellationObject>(info) {
  napi_type_tag_object(info.Env(), info.This(), &kTag);
}

}  // namespace ckpt::host
