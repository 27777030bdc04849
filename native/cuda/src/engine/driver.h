#pragma once

#include <string>

#include "ckpt/library.h"
#include "cuda_abi.h"

namespace ckpt::cuda {

/// The CUDA driver library: loaded once per process, at the first use.
class Driver {
 public:
  /// The single instance. Never throws: problem() says what is missing.
  static const Driver& Get();

  /// Empty if devices can be used; otherwise what is missing, with the paths tried.
  const std::string& problem() const { return problem_; }
  const Library& library() const { return library_; }
  /// Version of the CUDA interface that the driver offers, for example 13000; 0 if there is none.
  int version() const { return version_; }
  /// Number of devices.
  int devices() const { return devices_; }

  /// The functions. @throws Error ADDON_UNAVAILABLE with problem().
  const abi::Api& api() const;

  /// @throws Error OUT_OF_MEMORY or NATIVE_FAILURE with the driver's name and text of `result`, unless it is success.
  void Check(abi::Result result, const char* what) const {
    if (result != abi::kSuccess) Fail(result, what);
  }
  /// Name and text of a result.
  std::string Describe(abi::Result result) const;

 private:
  Driver();
  [[noreturn]] void Fail(abi::Result result, const char* what) const;

  Library library_;
  abi::Api api_;
  std::string problem_;
  int version_ = 0;
  int devices_ = 0;
};

}  // namespace ckpt::cuda
