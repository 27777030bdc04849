// A hostile endpoint against the side that reads from it: any bytes at any step of the handshake and of replies. Reads end with
// an error that is one of a peer's, or well; nothing outside their targets is written to, and nothing at all by who does not
// know the secret.
#include <sys/mman.h>

#include <algorithm>
#include <thread>

#include "ckpt/cancellation.h"
#include "tcp_peer.h"
#include "tcp_wire.h"

namespace {

using namespace ckpt;
using namespace ckpt;
using namespace ckpt::host;

constexpr std::size_t kTarget = 8 * 1024;
constexpr std::byte kUntouched{0xc3};
/// Every byte that an endpoint with the right key sends as data.
constexpr std::uint8_t kServed = 0x5a;
constexpr EndpointId kEndpoint{1, 2, 3};

/// What the endpoint answers to one request, taken from the fuzzer before any thread runs.
struct Reply {
  bool right_id;
  std::uint64_t id;
  ReplyStatus status;
  std::uint32_t extent;
  /// Of the data: as many bytes as were asked for, or another number.
  bool right_bytes;
  std::size_t bytes;
  ReplyTrailer trailer;
};

struct Script {
  bool right_hello;
  bool right_proof;
  /// What the reader wants at least, and what the endpoint says.
  Protection wanted;
  Protection said;
  DataCiphers offered;
  DataCipher chosen;
  /// Where the hello is wrong, and what stands there; lengths too.
  std::vector<std::pair<std::size_t, std::uint8_t>> changes;
  std::size_t hello_bytes;
  ServerProof proof;
  std::vector<Reply> replies;
  /// Of the records that are sent with the right tag: one in which a bit is changed on its way, and whether it was.
  fuzz::Records::Change change;
  bool changed;
  std::vector<std::uint8_t> rest;
  /// Says nothing at the end for a while, instead of closing.
  bool stalls;
};

Script Read(FuzzedDataProvider& data) {
  Script script{};
  script.right_hello = data.ConsumeIntegralInRange<int>(0, 3) != 0;
  script.right_proof = data.ConsumeIntegralInRange<int>(0, 3) != 0;
  script.wanted = static_cast<Protection>(data.ConsumeIntegralInRange<std::uint16_t>(0, 2));
  script.said = static_cast<Protection>(data.ConsumeIntegralInRange<std::uint16_t>(0, 3));
  // AES-256-GCM alone, or all that there is; and what the endpoint makes of it, right or wrong.
  script.offered = data.ConsumeBool() ? AvailableDataCiphers() : static_cast<DataCiphers>(DataCipher::kAes256Gcm);
  script.chosen = data.ConsumeIntegralInRange<int>(0, 7) != 0 ? FastestDataCipher(script.offered)
                                                              : static_cast<DataCipher>(data.ConsumeIntegral<std::uint8_t>());
  if (!script.right_hello) {
    for (int changes = data.ConsumeIntegralInRange<int>(0, 3); changes > 0; --changes) {
      script.changes.emplace_back(data.ConsumeIntegralInRange<std::size_t>(0, sizeof(ServerHello) - 1),
                                  data.ConsumeIntegral<std::uint8_t>());
    }
    script.hello_bytes = data.ConsumeIntegralInRange<std::size_t>(0, sizeof(ServerHello));
  }
  if (!script.right_proof) {
    script.proof.status = static_cast<HelloStatus>(data.ConsumeIntegralInRange<std::uint16_t>(0, 4));
    for (auto& byte : script.proof.mac) byte = data.ConsumeIntegral<std::uint8_t>();
  }
  for (int replies = data.ConsumeIntegralInRange<int>(0, 6); replies > 0; --replies) {
    Reply reply{};
    reply.right_id = data.ConsumeIntegralInRange<int>(0, 7) != 0;
    reply.id = data.ConsumeIntegral<std::uint64_t>();
    const bool fine = data.ConsumeIntegralInRange<int>(0, 3) != 0;
    if (!fine) {
      reply.status = static_cast<ReplyStatus>(data.ConsumeIntegralInRange<std::uint32_t>(0, 4));
      reply.extent =
          data.ConsumeBool() ? data.ConsumeIntegral<std::uint32_t>() : data.ConsumeIntegralInRange<std::uint32_t>(0, 3);
    }
    reply.right_bytes = data.ConsumeIntegralInRange<int>(0, 3) != 0;
    reply.bytes = data.ConsumeIntegralInRange<std::size_t>(0, 2 * kTarget);
    if (!data.ConsumeBool()) {
      reply.trailer = {static_cast<ReplyStatus>(data.ConsumeIntegralInRange<std::uint32_t>(0, 4)),
                       data.ConsumeIntegral<std::uint32_t>()};
    }
    script.replies.push_back(reply);
  }
  if (data.ConsumeBool()) {
    script.change = {data.ConsumeIntegralInRange<std::size_t>(0, 20), data.ConsumeIntegral<std::uint32_t>()};
  }
  script.stalls = data.ConsumeIntegralInRange<int>(0, 15) == 0;
  return script;
}

/// The endpoint's side of one connection.
void Converse(int fd, Script& script) {
  ClientHello hello{};
  if (!fuzz::ReceiveValue(fd, hello)) return;
  ServerHello answer{kTcpMagic, kTcpProtocol, HelloStatus::kOk, script.said, script.chosen, kEndpoint, {}};
  std::vector<std::uint8_t> bytes(sizeof answer);
  std::memcpy(bytes.data(), &answer, sizeof answer);
  for (const auto& [at, value] : script.changes) bytes[at] = value;
  if (!script.right_hello) bytes.resize(std::max(script.hello_bytes, std::size_t{1}));
  if (!fuzz::Send(fd, bytes) || bytes.size() != sizeof answer) return;
  std::memcpy(&answer, bytes.data(), sizeof answer);
  script.said = answer.protection;
  ClientProof proof{};
  if (!fuzz::ReceiveValue(fd, proof)) return;
  if (answer.protection < script.wanted) fuzz::Broken("a reader takes less protection than it wants");
  if (hello.ciphers != script.offered) fuzz::Broken("a reader offers other ciphers than it was told to");
  if (answer.cipher != DataCipher::kAes256Gcm && answer.cipher != DataCipher::kAegis128x4) {
    fuzz::Broken("a reader takes a cipher that does not exist");
  }
  if ((static_cast<DataCiphers>(answer.cipher) & script.offered) == 0)
    fuzz::Broken("a reader takes a cipher that it did not offer");
  const fuzz::Agreement agreement(hello, answer);
  ServerProof verdict = script.proof;
  if (script.right_proof) verdict = {HelloStatus::kOk, 0, 0, agreement.Proof("ckpt tcp 3 server proof")};
  if (!fuzz::Send(fd, &verdict, sizeof verdict)) return;
  TcpChannel channel(fd, agreement.Keys(false));
  fuzz::Records records(fd, agreement.Keys(false), script.change);
  int number = 0;
  const auto well = [](Io io) { return io == Io::kDone; };
  for (const auto& reply : script.replies) {
    RequestHeader request{};
    if (!well(channel.Receive(&request, sizeof request, fuzz::Patience(), number))) return;
    if (request.operation != Operation::kRead || request.extents == 0 || request.extents > kMaxExtents) {
      fuzz::Broken("a reader asks for nonsense");
    }
    std::array<WireExtent, kMaxExtents> extents;
    if (!well(channel.Receive(extents.data(), request.extents * sizeof(WireExtent), fuzz::Patience(), number))) return;
    const ReplyHeader header{reply.right_id ? request.id : reply.id, reply.status, reply.extent};
    std::vector<std::uint8_t> bytes(reply.right_bytes ? request.bytes : reply.bytes, kServed);
    const bool sent = records.SendMessage(&header, sizeof header) &&
                      (reply.status != ReplyStatus::kOk ||
                       (records.SendData(bytes) && records.SendMessage(&reply.trailer, sizeof reply.trailer)));
    script.changed = records.changed() && answer.protection != Protection::kNone;
    if (!sent || script.changed) return;
  }
  if (fuzz::Send(fd, script.rest) && script.stalls) fuzz::Receive(fd, std::size_t{1} << 20);
}

std::byte* Target() {
  static auto* const target = [] {
    void* base = mmap(nullptr, kTarget + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(static_cast<char*>(base) + 4096 + kTarget, 4096, PROT_NONE) != 0) std::abort();
    return static_cast<std::byte*>(base) + 4096;
  }();
  return target;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  auto script = Read(data);
  auto* const target = Target();
  // One page before the target is watched, too.
  std::fill(target - 4096, target + kTarget, kUntouched);
  std::vector<TcpRead> reads;
  std::size_t at = 0;
  std::vector<bool> mine(kTarget, false);
  for (int count = data.ConsumeIntegralInRange<int>(0, 70); count > 0 && at < kTarget; --count) {
    const auto length = data.ConsumeIntegralInRange<std::size_t>(0, std::min<std::size_t>(kTarget - at, 512));
    reads.push_back(
        {{}, data.ConsumeIntegral<std::uint64_t>() >> 1, target + at, length, static_cast<std::uint32_t>(reads.size())});
    std::fill_n(mine.begin() + static_cast<std::ptrdiff_t>(at), length, true);
    at += length + data.ConsumeIntegralInRange<std::size_t>(0, 9);
  }
  script.rest = data.ConsumeRemainingBytes<std::uint8_t>();

  static auto* const listening = [] {
    auto* address = new TcpAddress{"127.0.0.1", 0};
    return new std::pair<TcpAddress*, ScopedFd>(address, ListenTcp(*address));
  }();
  std::thread endpoint([&script] {
    pollfd polled{listening->second.get(), POLLIN, 0};
    if (poll(&polled, 1, 5000) != 1) fuzz::Broken("nobody connects");
    const ScopedFd fd(accept4(listening->second.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) fuzz::Broken("a connection cannot be accepted");
    const linger none{1, 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
    ConfigureStream(fd.get());
    Converse(fd.get(), script);
  });
  const auto started = std::chrono::steady_clock::now();
  const Cancellation never;
  const std::chrono::milliseconds patience{script.stalls ? 30 : 5000};
  bool well = false;
  try {
    TcpPeer peer({kEndpoint, {*listening->first}, fuzz::kSecret, 1, patience, script.wanted, script.offered}, never);
    const auto got = peer.Read(reads, patience, never, nullptr);
    std::uint64_t wanted = 0;
    for (const auto& read : reads) wanted += read.bytes;
    if (got != wanted) fuzz::Broken("a read that went well brought another number of bytes");
    well = true;
    for (std::size_t i = 0; i < kTarget; ++i) {
      if (script.said != Protection::kNone && mine[i] && target[i] != std::byte{kServed}) {
        fuzz::Broken("a read that went well brought bytes that nobody with the key sent");
      }
    }
  } catch (const Error& error) {
    const auto& code = error.code();
    if (code != code::kPeerLost && code != code::kPeerProtocol && code != code::kPeerUnauthorized &&
        code != code::kRegionRefused) {
      fuzz::Broken(code + ": " + error.what());
    }
  }
  if (std::chrono::steady_clock::now() - started > fuzz::kLongest) fuzz::Broken("a read does not end");
  endpoint.join();
  if (well && script.changed) fuzz::Broken("a read went well although what came was changed");
  const bool stranger = !script.right_proof;
  if (std::any_of(target - 4096, target, [](std::byte one) { return one != kUntouched; })) {
    fuzz::Broken("bytes before the target were written");
  }
  for (std::size_t i = 0; i < kTarget; ++i) {
    if (target[i] != kUntouched && (stranger || !mine[i])) fuzz::Broken("bytes were written that nobody asked for");
  }
  return 0;
}
