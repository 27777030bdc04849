#include "nccl.h"

#include <cstdlib>

#include "ckpt/error.h"

namespace ckpt::cuda {
namespace {

std::vector<std::string> Candidates() {
  std::vector<std::string> names;
  if (const char* named = std::getenv("CKPT_NCCL_LIBRARY"); named != nullptr && *named != '\0') names.emplace_back(named);
  names.emplace_back("libnccl.so.2");
  names.emplace_back("libnccl.so");
  return names;
}

/// First version with non-blocking communicators and every configuration field used here.
constexpr int kOldestVersion = 21800;

}  // namespace

const Nccl& Nccl::Get() {
  static const Nccl* instance = new Nccl();
  return *instance;
}

Nccl::Nccl() {
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  library_ = Library::Open(Candidates());
  if (!library_.is_open()) {
    problem_ = "the NCCL library is not installed, or CKPT_NCCL_LIBRARY has to name it (" + library_.DescribeAttempts() + ")";
    return;
  }
  std::string missing;
#define CKPT_RESOLVE(member, type, symbol, parameters)                            \
  api_.member = reinterpret_cast<decltype(api_.member)>(library_.Symbol(symbol)); \
  if (api_.member == nullptr) missing += missing.empty() ? symbol : ", " symbol;
  CKPT_NCCL_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
  if (!missing.empty()) {
    problem_ = library_.path() + " lacks " + missing;
    return;
  }
  if (api_.getVersion(&version_) != nccl_abi::kSuccess) {
    problem_ = library_.path() + " does not tell its version";
  } else if (version_ < kOldestVersion) {
    problem_ = library_.path() + " is NCCL " + std::to_string(version_) + ", needed is " + std::to_string(kOldestVersion);
  }
}

const nccl_abi::Api& Nccl::api() const {
  if (!problem_.empty()) throw Error(code::kAddonUnavailable, "NCCL cannot be used here: " + problem_);
  return api_;
}

std::string Nccl::Describe(nccl_abi::Result result, nccl_abi::Comm comm) const {
  const char* text = api_.getErrorString(result);
  const char* last = api_.getLastError(comm);
  std::string message = (text == nullptr ? "unknown result" : std::string(text)) + " (" + std::to_string(result) + ")";
  if (last != nullptr && *last != '\0') message += std::string(", ") + last;
  while (!message.empty() && (message.back() == '\n' || message.back() == ' ')) message.pop_back();
  return message;
}

void Nccl::Check(nccl_abi::Result result, const char* what, nccl_abi::Comm comm) const {
  if (result == nccl_abi::kSuccess || result == nccl_abi::kInProgress) return;
  Error error = Error(code::kNativeFailure, std::string(what) + " failed: " + Describe(result, comm)).WithNumber(result);
  const bool misused = result == nccl_abi::kInvalidArgument || result == nccl_abi::kInvalidUsage;
  // NCCL reports the death of a member this way.
  if (comm != nullptr && !misused) throw std::move(error).WithPeer("another member");
  throw error;
}

}  // namespace ckpt::cuda
