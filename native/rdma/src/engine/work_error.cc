#include "work_error.h"

#include "codes.h"

namespace ckpt::rdma {
namespace {

const char* CodeOf(ibv_wc_status status) {
  switch (status) {
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_INV_RD_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
      return code::kRegionRefused;
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
    case IBV_WC_REM_ABORT_ERR:
    case IBV_WC_WR_FLUSH_ERR:
      return code::kPeerLost;
    default:
      return ckpt::code::kNativeFailure;
  }
}

const char* Meaning(ibv_wc_status status) {
  switch (status) {
    case IBV_WC_REM_ACCESS_ERR:
      return "the peer's device refused access: the key is not, or no longer, that of a region, or the range leaves it";
    case IBV_WC_REM_INV_REQ_ERR:
      return "the peer's device considers the request invalid";
    case IBV_WC_REM_OP_ERR:
      return "the peer's device could not execute the operation";
    case IBV_WC_RETRY_EXC_ERR:
      return "the peer did not answer, after all retries";
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return "the peer was not ready, after all retries";
    case IBV_WC_WR_FLUSH_ERR:
      return "the queue pair failed before the request was done";
    case IBV_WC_LOC_PROT_ERR:
      return "the local memory is not registered for this";
    default:
      return "the request failed";
  }
}

}  // namespace

const char* StatusName(ibv_wc_status status) {
#define CKPT_NAME(name) \
  case name:            \
    return #name;
  switch (status) {
    CKPT_NAME(IBV_WC_SUCCESS)
    CKPT_NAME(IBV_WC_LOC_LEN_ERR)
    CKPT_NAME(IBV_WC_LOC_QP_OP_ERR)
    CKPT_NAME(IBV_WC_LOC_EEC_OP_ERR)
    CKPT_NAME(IBV_WC_LOC_PROT_ERR)
    CKPT_NAME(IBV_WC_WR_FLUSH_ERR)
    CKPT_NAME(IBV_WC_MW_BIND_ERR)
    CKPT_NAME(IBV_WC_BAD_RESP_ERR)
    CKPT_NAME(IBV_WC_LOC_ACCESS_ERR)
    CKPT_NAME(IBV_WC_REM_INV_REQ_ERR)
    CKPT_NAME(IBV_WC_REM_ACCESS_ERR)
    CKPT_NAME(IBV_WC_REM_OP_ERR)
    CKPT_NAME(IBV_WC_RETRY_EXC_ERR)
    CKPT_NAME(IBV_WC_RNR_RETRY_EXC_ERR)
    CKPT_NAME(IBV_WC_LOC_RDD_VIOL_ERR)
    CKPT_NAME(IBV_WC_REM_INV_RD_REQ_ERR)
    CKPT_NAME(IBV_WC_REM_ABORT_ERR)
    CKPT_NAME(IBV_WC_INV_EECN_ERR)
    CKPT_NAME(IBV_WC_INV_EEC_STATE_ERR)
    CKPT_NAME(IBV_WC_FATAL_ERR)
    CKPT_NAME(IBV_WC_RESP_TIMEOUT_ERR)
    CKPT_NAME(IBV_WC_GENERAL_ERR)
    default:
      return "IBV_WC_unknown";
  }
#undef CKPT_NAME
}

bool MayGoElsewhere(ibv_wc_status status) { return CodeOf(status) == code::kPeerLost; }

WorkError::WorkError(ibv_wc_status status, std::uint32_t vendor_error, const std::string& what,
                     std::optional<std::uint32_t> remote)
    : Error(Error(CodeOf(status), what + ": " + StatusName(status) + ", " + Meaning(status)).WithNumber(status)),
      status_(status),
      vendor_error_(vendor_error),
      remote_(CodeOf(status) == code::kRegionRefused ? remote : std::nullopt) {}

}  // namespace ckpt::rdma
