#include "ucx.h"

#include <sys/stat.h>

#include <cstdarg>
#include <mutex>

namespace ckpt::ucx {
namespace {

constexpr const char* kFile = "libucp.so.0";

std::vector<std::string> Candidates() {
  const char* named = std::getenv("CKPT_UCX_LIBRARY");
  if (named == nullptr || *named == '\0') return {kFile};
  struct stat status{};
  const bool directory = stat(named, &status) == 0 && S_ISDIR(status.st_mode);
  return {directory ? std::string(named) + "/" + kFile : named};
}

std::mutex log_mutex;

std::string& LogText() {
  static auto* text = new std::string();
  return *text;
}

/// Keeps warnings and errors for our own errors' texts: UCX would print them to the standard output, which is not its own.
int KeepLog(const char*, unsigned, const char*, int level, const void*, const char* format, std::va_list arguments) {
  if (level > UCS_LOG_LEVEL_WARN) return 0;
  char buffer[512];
  if (std::vsnprintf(buffer, sizeof buffer, format, arguments) > 0) {
    const std::lock_guard<std::mutex> lock(log_mutex);
    LogText() = buffer;
  }
  // UCS_LOG_FUNC_RC_STOP: no other handler gets it.
  return 0;
}

/// UCX would patch libc's functions for memory (a crash in a process whose threads are using them, and under ThreadSanitizer),
/// to keep registrations that it makes itself. Ours are explicit.
Library OpenLibrary() {
  setenv("UCX_MEM_EVENTS", "no", 0);
  return Library::Open(Candidates());
}

}  // namespace

const Ucx& Ucx::Get() {
  // Never destroyed: threads that use it may outlive static destructors.
  static const Ucx* instance = new Ucx();
  return *instance;
}

const UcxApi& Ucx::Api() {
  const Ucx& ucx = Get();
  if (!ucx.problem_.empty()) throw Error(code::kAddonUnavailable, ucx.problem_);
  return ucx.api_;
}

Ucx::Ucx() : library_(OpenLibrary()) {
  if (!library_.is_open()) {
    problem_ = "UCX is not installed (" + library_.DescribeAttempts() +
               "); on Debian and Ubuntu: apt-get install libucx0; or set CKPT_UCX_LIBRARY to the directory of " + kFile;
    return;
  }
  std::string missing;
#define CKPT_RESOLVE(name)                                                   \
  api_.name = reinterpret_cast<decltype(api_.name)>(library_.Symbol(#name)); \
  if (api_.name == nullptr) missing += std::string(missing.empty() ? "" : ", ") + #name;
  CKPT_UCX_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
  if (!missing.empty()) {
    problem_ = library_.path() + " lacks " + missing + ": UCX 1.13 or newer is required";
    return;
  }
  version_ = api_.ucp_get_version_string();
  using Handler = int (*)(const char*, unsigned, const char*, int, const void*, const char*, std::va_list);
  const auto push = reinterpret_cast<void (*)(Handler)>(library_.Symbol("ucs_log_push_handler"));
  if (push != nullptr && std::getenv("UCX_LOG_LEVEL") == nullptr) push(KeepLog);
}

std::string StatusText(ucs_status_t status) { return Ucx::Api().ucs_status_string(status); }

std::string LastLog() {
  const std::lock_guard<std::mutex> lock(log_mutex);
  return LogText().empty() ? "" : " (" + LogText() + ")";
}

}  // namespace ckpt::ucx
