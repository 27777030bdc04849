#pragma once

#include <string>

#include "ckpt/library.h"
#include "nccl_abi.h"

namespace ckpt::cuda {

/// The NCCL library: loaded once per process, at the first use. NVLink multicast (NVLS) is switched off in this process unless
/// the environment sets it: broadcasts do not need it, and it reserves device memory.
class Nccl {
 public:
  /// The single instance. Never throws: problem() says what is missing.
  static const Nccl& Get();

  /// Empty if NCCL can be used; otherwise what is missing, with the paths tried.
  const std::string& problem() const { return problem_; }
  const Library& library() const { return library_; }
  /// For example 22803 for 2.28.3; 0 if there is none.
  int version() const { return version_; }

  /// The functions. @throws Error ADDON_UNAVAILABLE with problem().
  const nccl_abi::Api& api() const;

  /// @throws Error NATIVE_FAILURE unless the result is success or "in progress".
  void Check(nccl_abi::Result result, const char* what, nccl_abi::Comm comm = nullptr) const;
  /// Name and text of a result, with NCCL's last message if there is one.
  std::string Describe(nccl_abi::Result result, nccl_abi::Comm comm = nullptr) const;

 private:
  Nccl();

  Library library_;
  nccl_abi::Api api_;
  std::string problem_;
  int version_ = 0;
};

}  // namespace ckpt::cuda
