#pragma once

#include <dlfcn.h>
#include <link.h>

#include <string>
#include <vector>

namespace ckpt {

/// One attempt to open a shared library.
struct Attempt {
  std::string name;
  /// The loader's text; empty on success.
  std::string error;
};

/// A shared library that stays loaded until the process ends: CUDA, NCCL and verbs providers run exit handlers and their own
/// threads, so unloading them is never safe.
class Library {
 public:
  /// Tries `names` in order and uses the first that opens. Never throws; see is_open().
  static Library Open(const std::vector<std::string>& names) {
    Library library;
    for (const std::string& name : names) {
      dlerror();
      void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL);
      if (handle == nullptr) {
        const char* text = dlerror();
        library.attempts_.push_back({name, text == nullptr ? "unknown error" : text});
        continue;
      }
      library.attempts_.push_back({name, ""});
      library.handle_ = handle;
      library.path_ = name;
      link_map* map = nullptr;
      if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr && map->l_name != nullptr && map->l_name[0] != '\0') {
        library.path_ = map->l_name;
      }
      return library;
    }
    return library;
  }

  bool is_open() const { return handle_ != nullptr; }
  /// The loaded file, as the loader resolved it; empty if none was.
  const std::string& path() const { return path_; }
  const std::vector<Attempt>& attempts() const { return attempts_; }

  /// Returns all attempts in one line.
  std::string DescribeAttempts() const {
    std::string text;
    for (const Attempt& attempt : attempts_) {
      if (!text.empty()) text += "; ";
      text += attempt.error.empty() ? attempt.name + ": loaded" : attempt.name + ": " + attempt.error;
    }
    return text;
  }

  /// Returns the address of a symbol, null if there is none.
  void* Symbol(const char* name) const { return handle_ == nullptr ? nullptr : dlsym(handle_, name); }
  /// Returns the address of a symbol of a version, null if there is none.
  void* Symbol(const char* name, const char* version) const {
    return handle_ == nullptr ? nullptr : dlvsym(handle_, name, version);
  }

 private:
  void* handle_ = nullptr;
  std::string path_;
  std::vector<Attempt> attempts_;
};

}  // namespace ckpt
