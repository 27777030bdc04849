#include "libcrypto.h"

#include <dlfcn.h>

#include <optional>
#include <string>

#include "ckpt/error.h"

namespace ckpt::host {
namespace {

/// Fills in every function from `library`. @returns the name of the first missing one.
const char* Resolve(void* library, Libcrypto& table) {
  const auto find = [library](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
#define CKPT_FIND(name) \
  if (!find(#name, table.name)) return #name
  CKPT_FIND(EVP_CIPHER_CTX_new);
  CKPT_FIND(EVP_CIPHER_CTX_free);
  CKPT_FIND(EVP_aes_256_gcm);
  CKPT_FIND(EVP_CipherInit_ex);
  CKPT_FIND(EVP_CipherUpdate);
  CKPT_FIND(EVP_CipherFinal_ex);
  CKPT_FIND(EVP_CIPHER_CTX_ctrl);
  CKPT_FIND(EVP_sha256);
  CKPT_FIND(HMAC);
  CKPT_FIND(OpenSSL_version_num);
  CKPT_FIND(OpenSSL_version);
  CKPT_FIND(CRYPTO_memcmp);
  CKPT_FIND(OPENSSL_thread_stop);
#undef CKPT_FIND
  return nullptr;
}

struct Loaded {
  Libcrypto table{};
  std::string problem;
};

Loaded Load() {
  Loaded loaded;
  const char* missing = Resolve(RTLD_DEFAULT, loaded.table);
  if (missing == nullptr) return loaded;
  // Stays open: it may be used until the process ends.
  void* const library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    loaded.problem = std::string("this process has no ") + missing +
                     ", and libcrypto.so.3 cannot be loaded: " + (why == nullptr ? "no reason given" : why);
  } else if ((missing = Resolve(library, loaded.table)) != nullptr) {
    loaded.problem = std::string("libcrypto.so.3 has no ") + missing;
  }
  return loaded;
}

}  // namespace

const Libcrypto& Libcrypto::Get() {
  static const Loaded loaded = Load();
  if (loaded.problem.empty()) return loaded.table;
  throw Error(code::kAddonUnavailable, "TCP endpoints need OpenSSL's libcrypto: " + loaded.problem + ". Install OpenSSL 3")
      .WithField("libcrypto");
}

std::string Libcrypto::Version() {
  // OPENSSL_VERSION of openssl/crypto.h: "OpenSSL 3.0.16 11 Feb 2025".
  const std::string text = Get().OpenSSL_version(0);
  const auto name = text.find(' ');
  return name == std::string::npos ? text : text.substr(0, text.find(' ', name + 1));
}

}  // namespace ckpt::host
