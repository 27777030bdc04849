#include "library.h"

#include <dlfcn.h>
#include <link.h>

namespace ckpt::cuda {

Library Library::Open(const std::vector<std::string>& names) {
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

std::string Library::DescribeAttempts() const {
  std::string text;
  for (const Attempt& attempt : attempts_) {
    if (!text.empty()) text += "; ";
    text += attempt.error.empty() ? attempt.name + ": loaded" : attempt.name + ": " + attempt.error;
  }
  return text;
}

void* Library::Symbol(const char* name) const { return handle_ == nullptr ? nullptr : dlsym(handle_, name); }

}  // namespace ckpt::cuda
