#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>

#include "data_cipher.h"
#include "region_table.h"
#include "session_keys.h"

namespace ckpt::host {

// The wire protocol of TCP endpoints, version 3 (docs/p2p.md). Numbers are little-endian, as on every machine this runs on.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire format is that of little-endian machines");

inline constexpr std::uint32_t kTcpProtocol = 3;
/// Maximum of extents in one request; the parts of the reply fit one sendmsg.
inline constexpr std::uint32_t kMaxExtents = 64;
/// Maximum of bytes in one request.
inline constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{64} << 20;
inline constexpr std::chrono::milliseconds kHandshakePatience{10'000};

using EndpointId = std::array<std::uint8_t, 16>;
using Nonce = std::array<std::uint8_t, 32>;

/// The same for all versions, so that each side can report a version mismatch.
inline constexpr std::array<char, 8> kTcpMagic{'C', 'K', 'P', 'T', 'T', 'C', 'P', '1'};

/// Sent first, by the connecting side.
struct ClientHello {
  std::array<char, 8> magic;
  std::uint32_t protocol;
  /// The minimum that it accepts.
  Protection protection;
  /// Ciphers that it supports for bytes of regions.
  DataCiphers ciphers;
  std::uint16_t reserved;
  /// The endpoint that it expects to reach.
  EndpointId endpoint;
  Nonce nonce;
};

enum class HelloStatus : std::uint16_t { kOk = 0, kOtherEndpoint = 1, kOtherProtocol = 2, kUnauthorized = 3 };

/// The answer; unless its status is kOk, nothing is sent after it.
struct ServerHello {
  std::array<char, 8> magic;
  std::uint32_t protocol;
  HelloStatus status;
  /// Protection of the connection: the stronger of what the two sides require.
  Protection protection;
  /// The cipher, one of the reader's, that protects bytes of regions.
  DataCipher cipher;
  EndpointId endpoint;
  Nonce nonce;
};

/// HMAC-SHA-256 over a label and both hellos, with a key derived from the endpoint's secret and both nonces.
struct ClientProof {
  Sha256Digest mac;
};
struct ServerProof {
  HelloStatus status;
  std::uint16_t reserved;
  std::uint32_t reserved_too;
  /// Zero unless the status is kOk.
  Sha256Digest mac;
};

enum class Operation : std::uint32_t { kRead = 1 };

/// Followed by `extents` extents.
struct RequestHeader {
  Operation operation;
  std::uint32_t extents;
  std::uint64_t id;
  /// Sum over the extents.
  std::uint64_t bytes;
};

struct WireExtent {
  RegionKey key;
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// kClosedRegion: the key was of a region that has been closed. Its contents are gone, or will be.
enum class ReplyStatus : std::uint32_t { kOk = 0, kUnknownRegion = 1, kOutsideRegion = 2, kClosedRegion = 3 };

/// If kOk, followed by the bytes of all extents, and a trailer.
struct ReplyHeader {
  std::uint64_t id;
  ReplyStatus status;
  /// The extent that is refused.
  std::uint32_t extent;
};

/// Whether all regions were still open after their last byte had been read: otherwise the bytes may be of something else.
struct ReplyTrailer {
  ReplyStatus status;
  std::uint32_t extent;
};

static_assert(sizeof(ClientHello) == 64 && sizeof(ServerHello) == 64 && sizeof(ClientProof) == 32 && sizeof(ServerProof) == 40);
static_assert(sizeof(RequestHeader) == 24 && sizeof(WireExtent) == 32 && sizeof(ReplyHeader) == 16 &&
              sizeof(ReplyTrailer) == 8);
static_assert(std::is_trivially_copyable_v<RequestHeader> && std::is_trivially_copyable_v<WireExtent>);

/// One side's requirements for a handshake.
struct Wishes {
  /// The minimum that it accepts.
  Protection protection = Protection::kAuthenticated;
  DataCiphers ciphers = AvailableDataCiphers();
};

/// Proves over a new connection, from the connecting side, that both sides know the secret. @returns the keys of the session.
/// @throws Error PEER_LOST, PEER_UNAUTHORIZED, PEER_PROTOCOL (field `id` if another endpoint answers), ABORTED if stopped.
SessionKeys GreetServer(int fd, const EndpointId& expected, const std::string& secret, const Wishes& wishes,
                        const std::string& peer, std::chrono::steady_clock::time_point deadline,
                        const std::function<bool()>& stop);

/// The listening side. @returns nothing if the peer is refused.
std::optional<SessionKeys> GreetClient(int fd, const EndpointId& own, const std::string& secret, const Wishes& wishes,
                                       const std::function<bool()>& stop);

}  // namespace ckpt::host
