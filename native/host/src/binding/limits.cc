#include <cstdint>
#include <limits>
#include <string>

#include "../engine/available.h"
#include "../engine/limit.h"
#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "ckpt/usable_cpus.h"
#include "register.h"

namespace ckpt::host {
namespace {

/// A JavaScript number; Infinity for none.
Napi::Value ToNumberOrNone(Napi::Env env, std::uint64_t value) {
  return Napi::Number::New(env, value == Limit::kNone ? std::numeric_limits<double>::infinity() : static_cast<double>(value));
}

std::string ToRoot(const Napi::Value& value) { return value.IsUndefined() ? "" : ToText(value, "root"); }

/// availableBytes(): memory that this process can still allocate
Napi::Value AvailableBytesOf(const Napi::CallbackInfo& info) { return ToNumberOrNone(info.Env(), AvailableBytes()); }

/// memoryLimits(root?): every limit on memory, the strictest first
Napi::Value MemoryLimitsOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    const auto limits = MemoryLimits(ToRoot(info[0]));
    Napi::Array result = Napi::Array::New(env, limits.size());
    for (std::size_t i = 0; i < limits.size(); i++) {
      const Limit& limit = limits[i];
      Napi::Object row = Napi::Object::New(env);
      row.Set("file", limit.file);
      row.Set("text", limit.Text());
      row.Set("bytes", ToNumberOrNone(env, limit.bytes));
      row.Set("used", ToNumberOrNone(env, limit.used));
      row.Set("available", ToNumberOrNone(env, limit.available));
      result.Set(static_cast<std::uint32_t>(i), row);
    }
    return result;
  });
}

/// usableCpus(root?): number of CPUs that this process can use, by affinity and by the control groups' quota
Napi::Value UsableCpusOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value { return Napi::Number::New(info.Env(), UsableCpus(ToRoot(info[0]))); });
}

}  // namespace

void RegisterLimits(Napi::Env env, Napi::Object exports) {
  exports.Set("availableBytes", Napi::Function::New(env, AvailableBytesOf, "availableBytes"));
  exports.Set("memoryLimits", Napi::Function::New(env, MemoryLimitsOf, "memoryLimits"));
  exports.Set("usableCpus", Napi::Function::New(env, UsableCpusOf, "usableCpus"));
}

}  // namespace ckpt::host
