#pragma once

#include <cstdio>
#include <cstdlib>

/// Ends the program with the place of the failure; works whatever NDEBUG is.
#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)
