#include <cstring>

#include "ckpt/error.h"
#include "tcp_protocol.h"
#include "tcp_socket.h"

namespace ckpt::host {
namespace {

Sha256Digest Proof(const char* label, const std::string& secret, const EndpointId& endpoint, const Nonce& client,
                   const Nonce& server) {
  std::string message = label;
  const auto add = [&](const auto& bytes) { message.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); };
  add(endpoint);
  add(client);
  add(server);
  return HmacSha256(secret, message);
}

constexpr const char* kClientLabel = "ckpt tcp 1 client";
constexpr const char* kServerLabel = "ckpt tcp 1 server";

}  // namespace

void GreetServer(int fd, const EndpointId& expected, const std::string& secret, const std::string& peer,
                 std::chrono::steady_clock::time_point deadline, const std::function<bool()>& stop) {
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
    return Error(code::kPeerProtocol, "what answers at " + peer + " " + what).WithPeer(peer).WithField(field);
  };
  ClientHello hello{kTcpMagic, kTcpProtocol, 0, expected, {}};
  FillSecurely(hello.nonce.data(), hello.nonce.size());
  check(SendBytes(fd, &hello, sizeof hello, go_on, number), "hello");
  ServerHello answer{};
  check(ReceiveBytes(fd, &answer, sizeof answer, go_on, number), "hello");
  if (answer.magic != kTcpMagic) throw protocol("is no ckpt endpoint", "magic");
  if (answer.protocol != kTcpProtocol || answer.status == HelloStatus::kOtherProtocol) {
    throw protocol("speaks protocol " + std::to_string(answer.protocol) + ", not " + std::to_string(kTcpProtocol), "protocol");
  }
  if (answer.status != HelloStatus::kOk || answer.endpoint != expected) {
    throw protocol("is another endpoint than the one that was looked for: it was started anew", "id");
  }
  const ClientProof proof{Proof(kClientLabel, secret, expected, hello.nonce, answer.nonce)};
  check(SendBytes(fd, &proof, sizeof proof, go_on, number), "proof");
  ServerProof verdict{};
  check(ReceiveBytes(fd, &verdict, sizeof verdict, go_on, number), "proof");
  if (verdict.status != HelloStatus::kOk ||
      !EqualInConstantTime(verdict.mac, Proof(kServerLabel, secret, expected, hello.nonce, answer.nonce))) {
    throw Error(code::kPeerUnauthorized, "the secret is not that of the endpoint at " + peer).WithPeer(peer);
  }
}

bool GreetClient(int fd, const EndpointId& own, const std::string& secret, const std::function<bool()>& stop) {
  const auto deadline = std::chrono::steady_clock::now() + kHandshakePatience;
  const auto go_on = [&] { return !stop() && std::chrono::steady_clock::now() < deadline; };
  int number = 0;
  ClientHello hello{};
  if (ReceiveBytes(fd, &hello, sizeof hello, go_on, number) != Io::kDone || hello.magic != kTcpMagic) return false;
  ServerHello answer{kTcpMagic, kTcpProtocol, HelloStatus::kOk, own, {}};
  FillSecurely(answer.nonce.data(), answer.nonce.size());
  if (hello.endpoint != own) answer.status = HelloStatus::kOtherEndpoint;
  if (hello.protocol != kTcpProtocol) answer.status = HelloStatus::kOtherProtocol;
  if (SendBytes(fd, &answer, sizeof answer, go_on, number) != Io::kDone || answer.status != HelloStatus::kOk) return false;
  ClientProof proof{};
  if (ReceiveBytes(fd, &proof, sizeof proof, go_on, number) != Io::kDone) return false;
  ServerProof verdict{HelloStatus::kUnauthorized, 0, {}};
  if (EqualInConstantTime(proof.mac, Proof(kClientLabel, secret, own, hello.nonce, answer.nonce))) {
    verdict.status = HelloStatus::kOk;
    verdict.mac = Proof(kServerLabel, secret, own, hello.nonce, answer.nonce);
  }
  return SendBytes(fd, &verdict, sizeof verdict, go_on, number) == Io::kDone && verdict.status == HelloStatus::kOk;
}

}  // namespace ckpt::host
