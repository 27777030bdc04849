#pragma once

namespace ckpt::rdma::code {

/// Codes of @ckpt/contract that only one-sided transfers use.
inline constexpr const char* kPeerLost = "PEER_LOST";
inline constexpr const char* kRegionRefused = "REGION_REFUSED";

}  // namespace ckpt::rdma::code
