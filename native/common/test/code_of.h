#pragma once

#include <string>

#include "ckpt/error.h"

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
