#pragma once

#include <napi.h>

#include <memory>

#include "ckpt/cancellation.h"

namespace ckpt::host {

/// The JavaScript side of a Cancellation: newCancellation() creates one, cancel() cancels the operation that it was passed to.
class CancellationObject : public Napi::ObjectWrap<CancellationObject> {
 public:
  static void Register(Napi::Env env, Napi::Object exports);
  /// The cancellation of a JavaScript value, null for undefined. @throws Error INVALID_ARGUMENT for anything else.
  static std::shared_ptr<Cancellation> From(const Napi::Value& value);

  explicit CancellationObject(const Napi::CallbackInfo& info);

 private:
  void Cancel(const Napi::CallbackInfo&) { cancellation_->Cancel(); }

  const std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
};

}  // namespace ckpt::host
