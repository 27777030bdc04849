#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <optional>
#include <string>

#include "ckpt/error.h"

namespace ckpt::rdma {

/// The name of a work completion status as verbs.h spells it, such as "IBV_WC_REM_ACCESS_ERR".
const char* StatusName(ibv_wc_status status);

/// Returns true if a status is the queue pair's trouble, so that the same bytes may be moved over another one, and not the
/// request's.
bool MayGoElsewhere(ibv_wc_status status);

/// A work request that failed.
class WorkError : public Error {
 public:
  /// `remote`: index of the remote region the request named; none where it is not at fault.
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
