#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "ckpt/error.h"

namespace ckpt {

/// A C++ object that JavaScript holds as an opaque, type-tagged object: no other object can pass for one. Close() empties the
/// box; running native work keeps its own references.
template <class T>
class Box {
 public:
  static Napi::Object Wrap(Napi::Env env, std::shared_ptr<T> value) {
    Napi::Object object = Napi::Object::New(env);
    auto* box = new std::shared_ptr<T>(std::move(value));
    const auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); };
    if (napi_wrap(env, object, box, finalize, nullptr, nullptr) != napi_ok) {
      delete box;
      throw Napi::Error::New(env, "cannot wrap a native object");
    }
    napi_type_tag_object(env, object, &T::kTag);
    return object;
  }

  /// @throws Error INVALID_ARGUMENT if it is something else, INVALID_STATE if it is closed.
  static std::shared_ptr<T> Get(const Napi::Value& value, const char* field) {
    const std::shared_ptr<T>& held = Held(value, field);
    if (held == nullptr) throw Error(code::kInvalidState, std::string("the ") + field + " is closed").WithField(field);
    return held;
  }

  /// Takes the object out; returns null if that was done before.
  static std::shared_ptr<T> Take(const Napi::Value& value, const char* field) { return std::move(Held(value, field)); }

  static bool Is(const Napi::Value& value) {
    bool tagged = false;
    return value.IsObject() && napi_check_object_type_tag(value.Env(), value, &T::kTag, &tagged) == napi_ok && tagged;
  }

 private:
  static std::shared_ptr<T>& Held(const Napi::Value& value, const char* field) {
    void* data = nullptr;
    if (!Is(value) || napi_unwrap(value.Env(), value, &data) != napi_ok) {
      throw Error(code::kInvalidArgument, std::string("not a ") + field + " of this addon").WithField(field);
    }
    return *static_cast<std::shared_ptr<T>*>(data);
  }
};

}  // namespace ckpt
