#pragma once

#include <string>
#include <vector>

namespace ckpt::cuda {

/// One try at opening a shared library.
struct Attempt {
  std::string name;
  /// The loader's text; empty where it succeeded.
  std::string error;
};

/// A shared library that stays loaded until the process ends: CUDA and NCCL run exit handlers and threads of their own, so
/// unloading them is never safe.
class Library {
 public:
  /// Tries `names` in order, the first that opens wins. Never throws; see is_open().
  static Library Open(const std::vector<std::string>& names);

  bool is_open() const { return handle_ != nullptr; }
  /// The file that was loaded, as the loader resolved it; empty where none was.
  const std::string& path() const { return path_; }
  const std::vector<Attempt>& attempts() const { return attempts_; }
  /// All attempts in one line.
  std::string DescribeAttempts() const;
  /// Address of a symbol, null where there is none.
  void* Symbol(const char* name) const;

 private:
  void* handle_ = nullptr;
  std::string path_;
  std::vector<Attempt> attempts_;
};

}  // namespace ckpt::cuda
