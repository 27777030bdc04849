#include "gid.h"

#include "ckpt/error.h"

namespace ckpt::rdma {
namespace {

constexpr std::size_t kTextLength = 39;

int Digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string GidText(const Gid& gid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < gid.size(); i++) {
    if (i > 0 && i % 2 == 0) text += ':';
    text += kDigits[gid[i] >> 4];
    text += kDigits[gid[i] & 15];
  }
  return text;
}

Gid ParseGid(const std::string& text, const char* field) {
  const auto refuse = [&] {
    return Error(ckpt::code::kInvalidArgument, std::string(field) + " is not a GID (eight groups of four hex digits)")
        .WithField(field);
  };
  if (text.size() != kTextLength) throw refuse();
  Gid gid{};
  std::size_t at = 0;
  for (std::size_t i = 0; i < gid.size(); i++) {
    if (i > 0 && i % 2 == 0 && text[at++] != ':') throw refuse();
    const int high = Digit(text[at++]);
    const int low = Digit(text[at++]);
    if (high < 0 || low < 0) throw refuse();
    gid[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return gid;
}

}  // namespace ckpt::rdma
