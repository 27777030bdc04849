// A hostile peer against a listening TCP endpoint: any bytes at any step of the handshake and of requests. Who does not know
// the secret gets nothing but the two answers of the handshake; who does gets exactly what it asks for, or a refusal; every
// connection ends.
#include <sys/mman.h>

#include <filesystem>
#include <optional>
#include <thread>

#include "ckpt/cancellation.h"
#include "tcp_server.h"
#include "tcp_wire.h"

namespace {

using namespace ckpt;
using namespace ckpt;
using namespace ckpt::host;

constexpr std::size_t kRegion = 24 * 1024;

/// An endpoint with two regions, each before a page that may not be touched.
struct World {
  std::vector<std::byte*> memories;
  std::vector<RegionKey> keys;
  TcpServer server{{{{"127.0.0.1", 0}}, fuzz::kSecret, 19, Protection::kNone}};

  World() {
    for (int i = 0; i < 2; ++i) {
      void* base = mmap(nullptr, kRegion + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (base == MAP_FAILED || mprotect(static_cast<char*>(base) + kRegion, 4096, PROT_NONE) != 0) std::abort();
      auto* memory = static_cast<std::byte*>(base);
      for (std::size_t at = 0; at < kRegion; ++at) memory[at] = static_cast<std::byte>(at * 131 + (at >> 8) * 7 + 17 + i);
      memories.push_back(memory);
      keys.push_back(server.regions().Add(memory, kRegion, nullptr));
    }
    // One that was open once.
    const auto closed = server.regions().Add(memories[0], kRegion, nullptr);
    server.regions().Close(closed);
    keys.push_back(closed);
  }

  /// Threads of this process while nobody is connected.
  std::ptrdiff_t threads_at_rest = Threads();

  static std::ptrdiff_t Threads() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  }

  /// Waits until the threads of all connections are gone, memory that libraries keep for a thread included: a search for leaks
  /// that begins earlier finds some of it half given back.
  void Rest() const {
    const auto deadline = std::chrono::steady_clock::now() + fuzz::kLongest;
    while (Threads() > threads_at_rest) {
      if (std::chrono::steady_clock::now() > deadline) fuzz::Broken("the thread of a connection does not end");
      std::this_thread::yield();
    }
  }

  static World& Get() {
    static auto* world = new World();
    return *world;
  }
};

ScopedFd Connect(const World& world) {
  std::size_t chosen = 0;
  auto fd =
      ConnectTcp(world.server.addresses(), std::chrono::steady_clock::now() + fuzz::kLongest, [] { return false; }, chosen);
  // Its bytes go at once, and nothing of it stays behind.
  ConfigureStream(fd.get());
  const linger none{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
  return fd;
}

/// The handshake as far as the fuzzer keeps to it. @returns the keys where the endpoint must have let it in.
std::optional<SessionKeys> Greet(FuzzedDataProvider& data, int fd, const EndpointId& id) {
  const bool faithful = data.ConsumeIntegralInRange<int>(0, 3) != 0;
  const auto wanted = static_cast<Protection>(data.ConsumeIntegralInRange<std::uint16_t>(0, 2));
  // AES-256-GCM is among what every reader offers.
  const auto offered =
      static_cast<DataCiphers>(data.ConsumeIntegral<DataCiphers>() | static_cast<DataCiphers>(DataCipher::kAes256Gcm));
  ClientHello hello{kTcpMagic, kTcpProtocol, wanted, offered, 0, id, {}};
  const auto first = fuzz::Mutated(data, hello, faithful);
  if (!fuzz::Send(fd, first) || !faithful) return std::nullopt;
  ServerHello answer{};
  if (!fuzz::ReceiveValue(fd, answer)) fuzz::Broken("a right greeting gets no answer");
  if (answer.magic != kTcpMagic || answer.status != HelloStatus::kOk || answer.endpoint != id || answer.protection != wanted ||
      answer.cipher != FastestDataCipher(offered & AvailableDataCiphers())) {
    fuzz::Broken("a right greeting is refused");
  }
  const bool known = data.ConsumeIntegralInRange<int>(0, 3) != 0;
  const fuzz::Agreement agreement(hello, answer);
  const ClientProof proof{agreement.Proof("ckpt tcp 3 client proof")};
  auto second = fuzz::Mutated(data, proof, known);
  if (!known && second.size() == sizeof proof && std::memcmp(second.data(), &proof, sizeof proof) == 0) second[0] ^= 1;
  if (!fuzz::Send(fd, second) || !known) return std::nullopt;
  ServerProof verdict{};
  if (!fuzz::ReceiveValue(fd, verdict) || verdict.status != HelloStatus::kOk ||
      verdict.mac != agreement.Proof("ckpt tcp 3 server proof")) {
    fuzz::Broken("a right proof is refused, or the endpoint does not prove itself");
  }
  return agreement.Keys(true);
}

/// One request with any numbers, and what must come of it. @returns whether the connection goes on.
bool Ask(FuzzedDataProvider& data, int fd, TcpChannel& channel, fuzz::Records& records, bool plain, const World& world) {
  int number = 0;
  const bool plausible = data.ConsumeBool();
  const auto count = data.ConsumeIntegralInRange<std::uint32_t>(plausible ? 1 : 0, plausible ? 4 : kMaxExtents + 2);
  std::vector<WireExtent> extents(count);
  RequestHeader request{Operation::kRead, count, data.ConsumeIntegral<std::uint64_t>(), 0};
  std::vector<std::byte> expected;
  ReplyStatus status = ReplyStatus::kOk;
  std::uint32_t refused = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto which = data.ConsumeIntegralInRange<std::size_t>(0, plausible ? 1 : 3);
    auto& extent = extents[i];
    if (which < world.keys.size()) extent.key = world.keys[which];
    extent.offset = fuzz::Number(data, kRegion);
    extent.bytes = fuzz::Number(data, plausible && extent.offset <= kRegion ? kRegion - extent.offset : kRegion);
    request.bytes += extent.bytes;
    if (status != ReplyStatus::kOk) continue;
    if (which > 1)
      status = which == 2 ? ReplyStatus::kClosedRegion : ReplyStatus::kUnknownRegion;
    else if (extent.offset > kRegion || extent.bytes > kRegion - extent.offset)
      status = ReplyStatus::kOutsideRegion;
    refused = i;
    if (status != ReplyStatus::kOk) continue;
    bytes += extent.bytes;
    expected.insert(expected.end(), world.memories[which] + extent.offset,
                    world.memories[which] + extent.offset + extent.bytes);
  }
  if (!plausible && data.ConsumeIntegralInRange<int>(0, 3) == 0) request.bytes = fuzz::Number(data, request.bytes);
  if (!plausible && data.ConsumeIntegralInRange<int>(0, 7) == 0) request.extents = data.ConsumeIntegral<std::uint32_t>();
  if (!plausible && data.ConsumeIntegralInRange<int>(0, 7) == 0) {
    request.operation = static_cast<Operation>(data.ConsumeIntegral<std::uint32_t>());
  }
  // A count that does not tell the extents that follow makes the rest of the stream anything at all.
  const bool told = request.extents == count;
  // Now and then somebody on the way changes what was sealed.
  if (!plausible && data.ConsumeIntegralInRange<int>(0, 7) == 0) {
    fuzz::Send(fd, data.ConsumeBytes<std::uint8_t>(data.ConsumeIntegralInRange<std::size_t>(1, 200)));
    return false;
  }
  // Or the peer itself sends anything at all, with the right tag.
  if (!plausible && data.ConsumeIntegralInRange<int>(0, 7) == 0) {
    for (auto* const byte : {reinterpret_cast<std::uint8_t*>(&request), reinterpret_cast<std::uint8_t*>(extents.data())}) {
      const auto size = byte == reinterpret_cast<std::uint8_t*>(&request) ? sizeof request : count * sizeof(WireExtent);
      const auto random = data.ConsumeBytes<std::uint8_t>(size);
      if (!random.empty()) std::memcpy(byte, random.data(), random.size());
      if (!records.SendMessage(byte, size)) return false;
    }
    return false;
  }
  if (!records.SendMessage(&request, sizeof request) ||
      !records.SendMessage(extents.data(), extents.size() * sizeof(WireExtent))) {
    return false;
  }
  if (records.changed() && !plain) {
    if (fuzz::Receive(fd, 1).size() > 0) fuzz::Broken("a request that was changed on its way is answered");
    return false;
  }
  if (!told || records.changed()) return false;
  const bool taken = request.operation == Operation::kRead && count > 0 && count <= kMaxExtents &&
                     (status != ReplyStatus::kOk || bytes == request.bytes);
  ReplyHeader header{};
  if (const auto io = channel.Receive(&header, sizeof header, fuzz::Patience(), number); io != Io::kDone) {
    if (io == Io::kStopped || io == Io::kForged) fuzz::Broken("an answer does not end, or is not its own");
    if (taken) fuzz::Broken("a request gets no answer");
    return false;
  }
  if (!taken) fuzz::Broken("a malformed request is answered");
  if (header.id != request.id || header.status != status || header.extent != (status == ReplyStatus::kOk ? 0 : refused)) {
    fuzz::Broken("a request gets another's answer");
  }
  if (status != ReplyStatus::kOk) return true;
  std::vector<std::byte> got(expected.size());
  std::vector<iovec> parts{{got.data(), got.size()}};
  ReplyTrailer trailer{};
  if (channel.ReceiveData(parts, fuzz::Patience(), number, [](std::size_t) {}) != Io::kDone ||
      channel.Receive(&trailer, sizeof trailer, fuzz::Patience(), number) != Io::kDone || trailer.status != ReplyStatus::kOk ||
      (!expected.empty() && std::memcmp(got.data(), expected.data(), expected.size()) != 0)) {
    fuzz::Broken("an answer holds other bytes than were asked for");
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  auto& world = World::Get();
  FuzzedDataProvider data(bytes, size);
  const auto fd = Connect(world);
  const auto served = world.server.served_bytes();
  const bool raw = data.ConsumeIntegralInRange<int>(0, 7) == 0;
  const auto keys = raw ? std::nullopt : Greet(data, fd.get(), world.server.id());
  const bool in = keys.has_value();
  if (in) {
    TcpChannel channel(fd.get(), *keys);
    fuzz::Records::Change change;
    if (data.ConsumeIntegralInRange<int>(0, 3) == 0) {
      change = {data.ConsumeIntegralInRange<std::size_t>(0, 9), data.ConsumeIntegral<std::uint32_t>()};
    }
    fuzz::Records records(fd.get(), *keys, change);
    bool going_on = true;
    for (int requests = data.ConsumeIntegralInRange<int>(0, 5); going_on && requests > 0; --requests) {
      going_on = Ask(data, fd.get(), channel, records, keys->protection == Protection::kNone, world);
    }
  }
  // Then whatever is left, and the end.
  fuzz::Send(fd.get(), data.ConsumeRemainingBytes<std::uint8_t>());
  shutdown(fd.get(), SHUT_WR);
  const auto rest = fuzz::Receive(fd.get(), std::size_t{64} << 20);
  if (!in && rest.size() > sizeof(ServerHello) + sizeof(ServerProof))
    fuzz::Broken("a stranger is told more than that it is one");
  if (!in && world.server.served_bytes() != served) fuzz::Broken("a stranger is served");
  world.Rest();
  return 0;
}
