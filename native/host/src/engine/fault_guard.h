#pragma once

#include <cstddef>

namespace ckpt::host {

/// Keeps the process alive when a file behind a mapping is cut short while it is used: the kernel sends SIGBUS to whoever
/// touches a page past the end. Within a guarded range such pages read as zeros from then on, and hit() says so; anywhere else
/// SIGBUS does what it did before. Errors of the hardware are never hidden.
class FaultGuard {
 public:
  /// `data`: a page's start. Where very many ranges are guarded already, this one is not.
  FaultGuard(std::byte* data, std::size_t bytes);
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
  ~FaultGuard();

  /// True if bytes of the range have been lost.
  bool hit() const;

 private:
  struct Slot* slot_;
};

}  // namespace ckpt::host
