#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace ckpt::rdma {

/// A port's address: 16 bytes.
using Gid = std::array<std::uint8_t, 16>;

/// Returns the kernel's notation: eight groups of four hex digits.
std::string GidText(const Gid& gid);

/// @throws Error INVALID_ARGUMENT naming `field` for a text in any other form.
Gid ParseGid(const std::string& text, const char* field);

}  // namespace ckpt::rdma
