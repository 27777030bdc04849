#include "available.h"

#include <string>
#include <vector>

#include "ckpt/error.h"
#include "limit.h"

namespace ckpt::host {
namespace {

void Require(std::uint64_t bytes, const std::vector<Limit>& limits) {
  for (const Limit& limit : limits) {
    if (bytes <= limit.available) continue;
    throw Error(code::kOutOfMemory, SizeText(bytes) + " of memory were requested (" + std::to_string(bytes) + " bytes) and " +
                                        SizeText(limit.available) + " are available: " + limit.Text())
        .WithFile(limit.file);
  }
}

}  // namespace

std::uint64_t AvailableBytes() {
  const std::vector<Limit> limits = MemoryLimits();
  return limits.empty() ? Limit::kNone : limits.front().available;
}

void RequireAvailable(std::uint64_t bytes, Use use) {
  Require(bytes, MemoryLimits());
  Require(bytes, AddressSpaceLimits(use == Use::kPrivate));
}

}  // namespace ckpt::host
