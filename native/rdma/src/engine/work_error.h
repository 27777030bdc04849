#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <optional>
#include <string>

#include "ckpt/error.h"

namespace ckpt::rdma {

/// Returns the name of a work completion status as verbs.h spells it, such as "IBV_WC_REM_ACCESS_ERR".
const char* StatusName(ibv_wc_status status);

/// Returns true if a status is a problem of the queue pair, and not of the request, so that the same bytes may be moved over a
/// different one.
bool MayGoElsewhere(ibv_wc_status status);

/// A failed work request.
class WorkError : public Error {
 public:
  /// `remote`: index of the remote region in the request; none if it is not at fault.
  WorkError(ibv_wc_status status, std::uint32_t vendor_error, const std::string& what, std::optional<std::uint32_t> remote);

  const char* status() const { return StatusName(status_); }
  std::uint32_t vendor_error() const { return vendor_error_; }
  std::optional<std::uint32_t> remote() const { return remote_; }

 private:
  ibv_wc_status status_;
  std::uint32_t vendor_error_;
  std::optional<std::uint32_t> remote_;
};

}  // namespace ckpt::rdma
