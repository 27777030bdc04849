#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "ckpt/error.h"

/// Ends the program with the place of the failure; works whatever NDEBUG is.
#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

/// The code of the ckpt::Error that `body` throws; empty when it throws none.
template <class Body>
std::string CodeOf(Body&& body) {
  try {
    body();
  } catch (const ckpt::Error& error) {
    return error.code();
  }
  return "";
}
