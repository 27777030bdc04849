#include <algorithm>
#include <memory>
#include <string>

#include "../engine/ring.h"
#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "memory.h"
#include "pipeline_arguments.h"

namespace ckpt::host {
namespace {

/// initialiseRing(memory, bytes): offset of the ring's data in the memory
Napi::Value InitialiseRingOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto mapping = Memory::From(info[0]);
    const auto bytes = ToUnsigned(info[1], "bytes");
    if (mapping->size() < kRingDataOffset || mapping->size() - kRingDataOffset < bytes) {
      throw Error(code::kInvalidArgument, "a ring of " + std::to_string(bytes) + " bytes needs " +
                                              std::to_string(kRingDataOffset) + " bytes more than that")
          .WithField("bytes");
    }
    InitialiseRing(mapping->data(), bytes);
    return Napi::Number::New(info.Env(), static_cast<double>(kRingDataOffset));
  });
}

/// ringGeneration(memory): the last run that used the ring, 0 for none
Napi::Value RingGeneration(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const auto& control = *ToRing(info[0]).control;
    const auto last = std::max(control.generation.value.load(), control.aborted.value.load());
    return Napi::Number::New(info.Env(), static_cast<double>(last));
  });
}

/// abortRingRun(memory, generation, position, message): ends peers that wait for this member's part of a run that it never
/// started
void AbortRingRun(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] {
    AbortRun(*ToRing(info[0]).control, ToUnsigned(info[1], "generation"),
             static_cast<std::uint32_t>(ToUnsigned(info[2], "position")), ToText(info[3], "message"));
  });
}

/// unlinkAtEnd(memory): forget(). Removes the name of shared memory when the environment ends: a terminated worker thread
/// cannot run JavaScript any more to do so.
Napi::Value UnlinkAtEnd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    const std::weak_ptr<Mapping> weak = Memory::From(info[0]);
    const auto id = Environment::Of(env).AddShutdown([weak] {
      try {
        if (const auto mapping = weak.lock()) mapping->Unlink();
      } catch (const Error&) {
        // The environment is ending; nothing is left to report to.
      }
    });
    return Napi::Function::New(env, [id](const Napi::CallbackInfo& call) { Environment::Of(call.Env()).RemoveShutdown(id); });
  });
}

}  // namespace

void RegisterRings(Napi::Env env, Napi::Object exports) {
  exports.Set("ringDataOffset", Napi::Number::New(env, static_cast<double>(kRingDataOffset)));
  exports.Set("initialiseRing", Napi::Function::New(env, InitialiseRingOf, "initialiseRing"));
  exports.Set("unlinkAtEnd", Napi::Function::New(env, UnlinkAtEnd, "unlinkAtEnd"));
  exports.Set("ringGeneration", Napi::Function::New(env, RingGeneration, "ringGeneration"));
  exports.Set("abortRingRun", Napi::Function::New(env, AbortRingRun, "abortRingRun"));
}

}  // namespace ckpt::host
