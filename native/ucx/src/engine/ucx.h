#pragma once

#include <ucp/api/ucp.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "ckpt/error.h"
#include "ckpt/library.h"

namespace ckpt::ucx {

/// Functions that are used, of libucp and of libucs, which it loads. All exist since UCX 1.13.
#define CKPT_UCX_FUNCTIONS(X)   \
  X(ucp_get_version_string)     \
  X(ucp_config_read)            \
  X(ucp_config_modify)          \
  X(ucp_config_release)         \
  X(ucp_init_version)           \
  X(ucp_cleanup)                \
  X(ucp_context_print_info)     \
  X(ucp_worker_create)          \
  X(ucp_worker_destroy)         \
  X(ucp_worker_progress)        \
  X(ucp_worker_get_address)     \
  X(ucp_worker_release_address) \
  X(ucp_worker_get_efd)         \
  X(ucp_worker_arm)             \
  X(ucp_ep_create)              \
  X(ucp_ep_close_nbx)           \
  X(ucp_ep_flush_nbx)           \
  X(ucp_ep_print_info)          \
  X(ucp_mem_map)                \
  X(ucp_mem_unmap)              \
  X(ucp_rkey_pack)              \
  X(ucp_rkey_buffer_release)    \
  X(ucp_ep_rkey_unpack)         \
  X(ucp_rkey_destroy)           \
  X(ucp_get_nbx)                \
  X(ucp_put_nbx)                \
  X(ucp_request_free)           \
  X(ucs_status_string)

struct UcxApi {
#define CKPT_MEMBER(name) decltype(&::name) name = nullptr;
  CKPT_UCX_FUNCTIONS(CKPT_MEMBER)
#undef CKPT_MEMBER
};

/// UCX, loaded at its first use: `CKPT_UCX_LIBRARY` (libucp.so.0, or the directory that has it), otherwise the system's.
class Ucx {
 public:
  /// Loads the library once; never throws.
  static const Ucx& Get();
  /// Returns the functions. @throws Error ADDON_UNAVAILABLE with what is missing.
  static const UcxApi& Api();

  /// Empty if the library can be used; otherwise what is missing, with a remedy.
  const std::string& problem() const { return problem_; }
  const Library& library() const { return library_; }
  /// Version of the loaded library; empty if there is none.
  const std::string& version() const { return version_; }

 private:
  Ucx();

  Library library_;
  UcxApi api_;
  std::string problem_;
  std::string version_;
};

/// Returns the library's text for a status.
std::string StatusText(ucs_status_t status);

/// Returns what UCX last logged as a warning or an error, in parentheses with a space before; empty if nothing.
std::string LastLog();

/// Returns what `print` writes to a stream.
template <class Print>
std::string Printed(Print print) {
  char* text = nullptr;
  std::size_t bytes = 0;
  std::FILE* stream = open_memstream(&text, &bytes);
  if (stream == nullptr) return "";
  print(stream);
  std::fclose(stream);
  std::string result(text, bytes);
  std::free(text);
  return result;
}

}  // namespace ckpt::ucx
