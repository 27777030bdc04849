#include "driver.h"

#include <cstdlib>

#include "ckpt/error.h"

namespace ckpt::cuda {
namespace {

std::vector<std::string> Candidates() {
  std::vector<std::string> names;
  if (const char* named = std::getenv("CKPT_CUDA_LIBRARY"); named != nullptr && *named != '\0') names.emplace_back(named);
  names.emplace_back("libcuda.so.1");
  names.emplace_back("/usr/local/nvidia/lib64/libcuda.so.1");
  names.emplace_back("/usr/local/cuda/compat/libcuda.so.1");
  return names;
}

/// The interfaces used exist since CUDA 11.4 (cuDeviceGetUuid_v2 is the newest).
constexpr int kOldestVersion = 11040;

}  // namespace

const Driver& Driver::Get() {
  static const Driver* instance = new Driver();
  return *instance;
}

Driver::Driver() : library_(Library::Open(Candidates())) {
  if (!library_.is_open()) {
    problem_ = "the CUDA driver library is not installed (" + library_.DescribeAttempts() + ")";
    return;
  }
  std::string missing;
#define CKPT_RESOLVE(member, symbol, parameters)                                  \
  api_.member = reinterpret_cast<decltype(api_.member)>(library_.Symbol(symbol)); \
  if (api_.member == nullptr) missing += missing.empty() ? symbol : ", " symbol;
  CKPT_CUDA_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
#define CKPT_RESOLVE(member, symbol, parameters) api_.member = reinterpret_cast<decltype(api_.member)>(library_.Symbol(symbol));
  CKPT_CUDA_OPTIONAL_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
  if (!missing.empty()) {
    problem_ = library_.path() + " lacks " + missing;
    return;
  }
  abi::Result result = api_.init(0);
  if (result != abi::kSuccess) {
    problem_ = "cuInit of " + library_.path() + " failed: " + Describe(result);
    return;
  }
  api_.driverGetVersion(&version_);
  if (version_ < kOldestVersion) {
    problem_ = library_.path() + " offers CUDA " + std::to_string(version_) + ", needed is " + std::to_string(kOldestVersion);
    return;
  }
  result = api_.deviceGetCount(&devices_);
  if (result != abi::kSuccess || devices_ == 0) {
    problem_ = "no CUDA device: " + (result == abi::kSuccess ? "the driver lists none" : Describe(result));
  }
}

const abi::Api& Driver::api() const {
  if (!problem_.empty()) throw Error(code::kAddonUnavailable, "CUDA cannot be used here: " + problem_);
  return api_;
}

std::string Driver::Describe(abi::Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  api_.getErrorName(result, &name);
  api_.getErrorString(result, &text);
  return std::string(name == nullptr ? "unknown result" : name) + " (" + std::to_string(result) + ")" +
         (text == nullptr ? "" : std::string(", ") + text);
}

void Driver::Fail(abi::Result result, const char* what) const {
  const char* kind = result == abi::kErrorOutOfMemory ? code::kOutOfMemory : code::kNativeFailure;
  throw Error(kind, std::string(what) + " failed: " + Describe(result)).WithNumber(result);
}

}  // namespace ckpt::cuda
