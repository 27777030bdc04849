#include "tcp_server.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include "ckpt/error.h"
#include "libcrypto.h"

namespace ckpt::host {
namespace {

/// Connections above this number are refused.
constexpr std::size_t kMaxConnections = 4096;
/// Maximum of connections that have not proved anything yet; above it, the oldest one is closed when another arrives. An honest
/// peer needs milliseconds.
constexpr std::size_t kMaxStrangers = 256;
/// How long a reply from a region that was closed meanwhile may make no progress before its connection is closed.
constexpr std::chrono::seconds kClosedPatience{2};

/// The regions of one request, used for its lifetime.
class UsedRegions {
 public:
  explicit UsedRegions(RegionTable& table) : table_(table) {}
  ~UsedRegions() {
    for (const auto& region : regions_) table_.Done(*region);
  }
  UsedRegions(const UsedRegions&) = delete;
  UsedRegions& operator=(const UsedRegions&) = delete;

  const Region* Add(const RegionKey& key) {
    auto region = table_.Use(key);
    if (region) regions_.push_back(region);
    return region.get();
  }
  /// Index of the first one that was closed meanwhile, or their number.
  std::size_t FirstClosed() const {
    std::size_t index = 0;
    while (index < regions_.size() && regions_[index]->open.load()) ++index;
    return index;
  }
  std::size_t size() const { return regions_.size(); }

 private:
  RegionTable& table_;
  std::vector<std::shared_ptr<Region>> regions_;
};

}  // namespace

TcpServer::TcpServer(TcpServerOptions options) : options_(std::move(options)) {
  if (options_.secret.size() < 16) {
    throw Error(code::kInvalidArgument, "the secret must have at least 16 characters").WithField("secret");
  }
  // If it is missing, the error occurs here, and not at the first peer's connection.
  Libcrypto::Get();
  FillSecurely(id_.data(), id_.size());
  if (options_.niceness < 0 || options_.niceness > 19) {
    throw Error(code::kInvalidArgument, "niceness " + std::to_string(options_.niceness) + " is not 0 to 19")
        .WithField("niceness");
  }
  if (options_.addresses.empty()) throw Error(code::kInvalidArgument, "no address to listen on").WithField("addresses");
  for (auto& address : options_.addresses) listeners_.push_back(ListenTcp(address));
  wake_ = ScopedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) throw Error::System(code::kNativeFailure, "eventfd", errno);
  accepting_ = StartThread("ckpt-tcp-accept", [this] { Accept(); });
}

TcpServer::~TcpServer() { Stop(); }

std::size_t TcpServer::connections() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<std::size_t>(
      std::count_if(connections_.begin(), connections_.end(), [](const Connection& one) { return !one.over.load(); }));
}

void TcpServer::Stop() {
  if (!stopping_.exchange(true)) {
    eventfd_write(wake_.get(), 1);
  }
  if (!accepting_.joinable()) return;
  accepting_.join();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& connection : connections_) shutdown(connection.fd.get(), SHUT_RDWR);
  }
  // No thread adds or removes connections any more.
  for (auto& connection : connections_) connection.thread.join();
  const std::lock_guard<std::mutex> lock(mutex_);
  connections_.clear();
  listeners_.clear();
}

void TcpServer::Accept() {
  std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}};
  for (const auto& listener : listeners_) polled.push_back({listener.get(), POLLIN, 0});
  while (!stopping_.load()) {
    // From time to time without a cause, to join the threads of ended connections.
    poll(polled.data(), polled.size(), 1000);
    for (std::size_t i = 1; i < polled.size() && !stopping_.load(); ++i) {
      if ((polled[i].revents & POLLIN) != 0) Admit(polled[i].fd);
    }
    Reap();
  }
}

void TcpServer::Admit(int listener) {
  ScopedFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd) {
    // Out of descriptors: the connection stays pending, and poll would return immediately.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) std::this_thread::sleep_for(kSocketSlice);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  MakeRoom();
  if (connections_.size() >= kMaxConnections) return;
  ConfigureStream(fd.get());
  auto& connection = connections_.emplace_back();
  connection.fd = std::move(fd);
  try {
    connection.thread = StartThread("ckpt-tcp-serve", [this, &connection] { Serve(connection); });
  } catch (const std::system_error&) {
    connections_.pop_back();
  }
}

/// Strangers that hold connections open must not keep others out. Called with the lock held.
void TcpServer::MakeRoom() {
  const auto stranger = [](const Connection& one) { return !one.known.load() && !one.over.load() && !one.dropped; };
  if (static_cast<std::size_t>(std::count_if(connections_.begin(), connections_.end(), stranger)) < kMaxStrangers) return;
  auto& oldest = *std::find_if(connections_.begin(), connections_.end(), stranger);
  oldest.dropped = true;
  shutdown(oldest.fd.get(), SHUT_RDWR);
}

void TcpServer::Reap() {
  std::list<Connection> over;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto one = connections_.begin(); one != connections_.end();) {
      const auto next = std::next(one);
      if (one->over.load()) over.splice(over.end(), connections_, one);
      one = next;
    }
  }
  for (auto& connection : over) connection.thread.join();
}

void TcpServer::Serve(Connection& connection) {
  // The owner's own work has priority: if cores are scarce, readers wait, and a reader's request preempts nothing. If the
  // system refuses this, nothing else is lost. The scheduling class is set first: it keeps the niceness.
  const sched_param none{};
  if (options_.niceness > 0) sched_setscheduler(0, SCHED_BATCH, &none);
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), options_.niceness);
  const int fd = connection.fd.get();
  try {
    const auto keys =
        GreetClient(fd, id_, options_.secret, {options_.protection, options_.ciphers}, [this] { return stopping_.load(); });
    if (keys) {
      connection.known.store(true);
      TcpChannel channel(fd, *keys);
      while (Answer(channel)) {
      }
    }
  } catch (const std::exception&) {
    // Out of memory or of randomness: the peer's connection ends.
  }
  shutdown(fd, SHUT_RDWR);
  connection.over.store(true);
}

/// Answers one request. @returns whether the connection continues.
bool TcpServer::Answer(TcpChannel& channel) {
  const GoOn unless_stopping = [this] { return !stopping_.load(); };
  int number = 0;
  RequestHeader request{};
  if (channel.Receive(&request, sizeof request, unless_stopping, number) != Io::kDone) return false;
  if (request.operation != Operation::kRead || request.extents == 0 || request.extents > kMaxExtents) return false;
  std::array<WireExtent, kMaxExtents> extents;
  if (channel.Receive(extents.data(), request.extents * sizeof(WireExtent), unless_stopping, number) != Io::kDone) {
    return false;
  }

  UsedRegions used(regions_);
  ReplyHeader header{request.id, ReplyStatus::kOk, 0};
  ReplyTrailer trailer{ReplyStatus::kOk, 0};
  std::vector<iovec> parts;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < request.extents && header.status == ReplyStatus::kOk; ++i) {
    const auto& extent = extents[i];
    const Region* region = used.Add(extent.key);
    header.extent = i;
    if (region == nullptr) {
      header.status = regions_.WasClosed(extent.key) ? ReplyStatus::kClosedRegion : ReplyStatus::kUnknownRegion;
    } else if (extent.offset > region->bytes || extent.bytes > region->bytes - extent.offset) {
      header.status = ReplyStatus::kOutsideRegion;
    } else {
      parts.push_back({const_cast<std::byte*>(region->data + extent.offset), extent.bytes});
      bytes += extent.bytes;
      if (bytes > kMaxRequestBytes) return false;
    }
  }
  if (header.status != ReplyStatus::kOk) {
    return channel.Send(&header, sizeof header, unless_stopping, number) == Io::kDone;
  }
  if (bytes != request.bytes) return false;
  header.extent = 0;
  auto still_since = std::chrono::steady_clock::now();
  const GoOn unless_closed = [&] {
    if (used.FirstClosed() == used.size()) still_since = std::chrono::steady_clock::now();
    return !stopping_.load() && std::chrono::steady_clock::now() - still_since < kClosedPatience;
  };
  if (channel.Send(&header, sizeof header, unless_closed, number, Last::kNo) != Io::kDone) return false;
  if (channel.SendData(parts, unless_closed, number, Last::kNo) != Io::kDone) return false;
  served_bytes_.fetch_add(bytes);
  // The bytes were copied into the socket: later changes of the memory do not reach the peer.
  if (const auto closed = used.FirstClosed(); closed < used.size()) {
    trailer = {ReplyStatus::kClosedRegion, static_cast<std::uint32_t>(closed)};
  }
  return channel.Send(&trailer, sizeof trailer, unless_stopping, number) == Io::kDone;
}

}  // namespace ckpt::host
