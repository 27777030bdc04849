#pragma once

#include <napi.h>

#include <cstdint>
#include <sstream>
#include <string>

namespace ckpt {

/// Exports `buildInfo`: the optional inputs that the build found (`with`) and those that were missing (`without`), by name, as
/// passed to CMake's ckpt_addon().
inline void ExportBuildInfo(Napi::Env env, Napi::Object exports) {
  const auto list = [env](const char* names) {
    Napi::Array array = Napi::Array::New(env);
    std::istringstream words(names);
    std::string name;
    for (std::uint32_t i = 0; words >> name; i++) array.Set(i, name);
    return array;
  };
  Napi::Object info = Napi::Object::New(env);
  info.Set("with", list(CKPT_BUILT_WITH));
  info.Set("without", list(CKPT_BUILT_WITHOUT));
  exports.Set("buildInfo", info);
}

}  // namespace ckpt
