#pragma once

#include <napi.h>

#include <exception>
#include <string>

#include "ckpt/error.h"

namespace ckpt {

/// Returns a JavaScript Error with the properties code, errno, file, field, peer, index and member, as far as they are known.
inline Napi::Error ToJs(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  Napi::Object object = result.Value();
  object.Set("code", error.code());
  if (error.error_number() != 0) object.Set("errno", error.error_number());
  if (!error.file().empty()) object.Set("file", error.file());
  if (!error.field().empty()) object.Set("field", error.field());
  if (!error.peer().empty()) object.Set("peer", error.peer());
  if (error.index() >= 0) object.Set("index", static_cast<double>(error.index()));
  if (error.member() >= 0) object.Set("member", static_cast<double>(error.member()));
  return result;
}

/// The same for any exception; exceptions other than ckpt::Error become NATIVE_FAILURE.
inline Napi::Error ToJs(Napi::Env env, std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return ToJs(env, error);
  } catch (const Napi::Error& error) {
    return error;
  } catch (const std::bad_alloc& error) {
    return ToJs(env, Error(code::kOutOfMemory, error.what()));
  } catch (const std::exception& error) {
    return ToJs(env, Error(code::kNativeFailure, error.what()));
  } catch (...) {
    return ToJs(env, Error(code::kNativeFailure, "unknown native exception"));
  }
}

/// Runs the body of a binding function; a ckpt::Error (or any exception) is thrown into JavaScript.
template <class Body>
auto Guard(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw ToJs(env, std::current_exception());
  }
}

}  // namespace ckpt
