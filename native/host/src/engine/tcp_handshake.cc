#include <algorithm>
#include <cstring>
#include <string_view>

#include "ckpt/error.h"
#include "tcp_protocol.h"
#include "tcp_socket.h"

namespace ckpt::host {
namespace {

constexpr const char* kClientLabel = "ckpt tcp 3 client proof";
constexpr const char* kServerLabel = "ckpt tcp 3 server proof";
constexpr const char* kKeysLabel = "ckpt tcp 3 keys";

template <class Value>
std::string_view BytesOf(const Value& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// What both sides derive from the secret and the two hellos as each of them saw these. A change in transit changes every proof
/// and key, so that no one between the two can choose their protection.
class Agreement {
 public:
  Agreement(const std::string& secret, const ClientHello& client, const ServerHello& server)
      : protection_(server.protection),
        cipher_(server.cipher),
        transcript_(std::string(BytesOf(client)).append(BytesOf(server))) {
    // HKDF-Extract (RFC 5869, section 2.2).
    key_ = HmacSha256(std::string(BytesOf(client.nonce)).append(BytesOf(server.nonce)), secret);
  }

  Sha256Digest Proof(const char* label) const { return HmacSha256(BytesOf(key_), label + transcript_); }

  SessionKeys Keys(bool client) const {
    std::array<TrafficKey, 4> keys;
    static_assert(sizeof keys == 176, "no padding between keys");
    HkdfExpand(key_, kKeysLabel + transcript_, reinterpret_cast<std::uint8_t*>(keys.data()), sizeof keys);
    const std::size_t own = client ? 0 : 1, other = 1 - own;
    return {protection_, cipher_, keys[own], keys[other], keys[2 + own], keys[2 + other]};
  }

 private:
  const Protection protection_;
  const DataCipher cipher_;
  const std::string transcript_;
  Sha256Digest key_;
};

}  // namespace

SessionKeys GreetServer(int fd, const EndpointId& expected, const std::string& secret, const Wishes& wishes,
                        const std::string& peer, std::chrono::steady_clock::time_point deadline,
                        const std::function<bool()>& stop) {
  const auto go_on = [&] { return !stop() && std::chrono::steady_clock::now() < deadline; };
  int number = 0;
  const auto check = [&](Io io, const char* step) {
    if (io == Io::kDone) return;
    if (stop()) throw Error(code::kAborted, "connecting was cancelled").WithPeer(peer);
    const std::string what = io == Io::kStopped  ? "no answer in time"
                             : io == Io::kClosed ? "the connection was closed"
                                                 : Error::Describe(number);
    throw Error(code::kPeerLost, "endpoint " + peer + ": " + what + " (" + step + ")").WithPeer(peer);
  };
  const auto protocol = [&](const std::string& what, const char* field) {
    return Error(code::kPeerProtocol, "the server at " + peer + " " + what).WithPeer(peer).WithField(field);
  };
  ClientHello hello{kTcpMagic, kTcpProtocol, wishes.protection, wishes.ciphers, 0, expected, {}};
  FillSecurely(hello.nonce.data(), hello.nonce.size());
  check(SendBytes(fd, &hello, sizeof hello, go_on, number), "hello");
  ServerHello answer{};
  check(ReceiveBytes(fd, &answer, sizeof answer, go_on, number), "hello");
  if (answer.magic != kTcpMagic) throw protocol("is no ckpt endpoint", "magic");
  if (answer.protocol != kTcpProtocol || answer.status == HelloStatus::kOtherProtocol) {
    throw protocol("speaks protocol " + std::to_string(answer.protocol) + ", not " + std::to_string(kTcpProtocol), "protocol");
  }
  if (answer.status != HelloStatus::kOk || answer.endpoint != expected) {
    throw protocol("is not the endpoint that was looked for: it was started again", "id");
  }
  if (answer.protection < wishes.protection || answer.protection > Protection::kEncrypted) {
    throw protocol("offers less protection than this side wants, or one that it does not know", "protection");
  }
  const auto cipher = static_cast<DataCiphers>(answer.cipher);
  if ((cipher & wishes.ciphers) == 0 || (cipher & (cipher - 1)) != 0) {
    throw protocol("chose cipher " + std::to_string(cipher) + ", which this side did not offer", "cipher");
  }
  const Agreement agreement(secret, hello, answer);
  const ClientProof proof{agreement.Proof(kClientLabel)};
  check(SendBytes(fd, &proof, sizeof proof, go_on, number), "proof");
  ServerProof verdict{};
  check(ReceiveBytes(fd, &verdict, sizeof verdict, go_on, number), "proof");
  if (verdict.status != HelloStatus::kOk || !EqualInConstantTime(verdict.mac, agreement.Proof(kServerLabel))) {
    throw Error(code::kPeerUnauthorized, "the secret is not that of the endpoint at " + peer).WithPeer(peer);
  }
  return agreement.Keys(true);
}

std::optional<SessionKeys> GreetClient(int fd, const EndpointId& own, const std::string& secret, const Wishes& wishes,
                                       const std::function<bool()>& stop) {
  const auto deadline = std::chrono::steady_clock::now() + kHandshakePatience;
  const auto go_on = [&] { return !stop() && std::chrono::steady_clock::now() < deadline; };
  int number = 0;
  ClientHello hello{};
  if (ReceiveBytes(fd, &hello, sizeof hello, go_on, number) != Io::kDone || hello.magic != kTcpMagic) return std::nullopt;
  const auto ciphers = static_cast<DataCiphers>(wishes.ciphers & hello.ciphers);
  const auto cipher = FastestDataCipher(ciphers);
  ServerHello answer{kTcpMagic, kTcpProtocol, HelloStatus::kOk, std::max(wishes.protection, hello.protection), cipher, own, {}};
  FillSecurely(answer.nonce.data(), answer.nonce.size());
  if (hello.endpoint != own) answer.status = HelloStatus::kOtherEndpoint;
  if (hello.protocol != kTcpProtocol || hello.protection > Protection::kEncrypted || ciphers == 0)
    answer.status = HelloStatus::kOtherProtocol;
  if (SendBytes(fd, &answer, sizeof answer, go_on, number) != Io::kDone || answer.status != HelloStatus::kOk)
    return std::nullopt;
  ClientProof proof{};
  if (ReceiveBytes(fd, &proof, sizeof proof, go_on, number) != Io::kDone) return std::nullopt;
  const Agreement agreement(secret, hello, answer);
  ServerProof verdict{HelloStatus::kUnauthorized, 0, 0, {}};
  if (EqualInConstantTime(proof.mac, agreement.Proof(kClientLabel))) {
    verdict.status = HelloStatus::kOk;
    verdict.mac = agreement.Proof(kServerLabel);
  }
  if (SendBytes(fd, &verdict, sizeof verdict, go_on, number) != Io::kDone || verdict.status != HelloStatus::kOk) {
    return std::nullopt;
  }
  return agreement.Keys(false);
}

}  // namespace ckpt::host
