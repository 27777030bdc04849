#pragma once

#include <cstddef>
#include <string>

extern "C" {
struct evp_cipher_ctx_st;
struct evp_cipher_st;
struct evp_md_st;
struct engine_st;
}

namespace ckpt::host {

/// The functions of OpenSSL's libcrypto that endpoints use. Their declarations have not changed since OpenSSL 1.1. They are
/// repeated here, because the headers of the library that a process will load are not known when this is built.
struct Libcrypto {
  using Bytes = unsigned char;

  evp_cipher_ctx_st* (*EVP_CIPHER_CTX_new)();
  void (*EVP_CIPHER_CTX_free)(evp_cipher_ctx_st*);
  const evp_cipher_st* (*EVP_aes_256_gcm)();
  int (*EVP_CipherInit_ex)(evp_cipher_ctx_st*, const evp_cipher_st*, engine_st*, const Bytes* key, const Bytes* iv,
                           int encrypt);
  int (*EVP_CipherUpdate)(evp_cipher_ctx_st*, Bytes* out, int* out_bytes, const Bytes* in, int in_bytes);
  int (*EVP_CipherFinal_ex)(evp_cipher_ctx_st*, Bytes* out, int* out_bytes);
  int (*EVP_CIPHER_CTX_ctrl)(evp_cipher_ctx_st*, int type, int argument, void* pointer);
  const evp_md_st* (*EVP_sha256)();
  Bytes* (*HMAC)(const evp_md_st*, const void* key, int key_bytes, const Bytes* data, std::size_t bytes, Bytes* mac,
                 unsigned* mac_bytes);
  unsigned long (*OpenSSL_version_num)();
  const char* (*OpenSSL_version)(int what);
  int (*CRYPTO_memcmp)(const void* a, const void* b, std::size_t bytes);
  void (*OPENSSL_thread_stop)();

  /// The library that this process has already loaded (Node exports its own), or libcrypto.so.3.
  /// @throws Error ADDON_UNAVAILABLE saying what is missing.
  static const Libcrypto& Get();
  /// "OpenSSL" with the version of the library.
  static std::string Version();
};

}  // namespace ckpt::host
