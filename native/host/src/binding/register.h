#pragma once

#include <napi.h>

namespace ckpt::host {

/// One function per binding file, called once per environment by addon.cc.
void RegisterLimits(Napi::Env env, Napi::Object exports);
void RegisterMemory(Napi::Env env, Napi::Object exports);
void RegisterTransfer(Napi::Env env, Napi::Object exports);
void RegisterPipeline(Napi::Env env, Napi::Object exports);
void RegisterOneSided(Napi::Env env, Napi::Object exports);
void RegisterLeftovers(Napi::Env env, Napi::Object exports);

}  // namespace ckpt::host
