#include "tcp_peer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "ckpt/error.h"

namespace ckpt::host {
namespace {

/// Size of one request, and how many of them a stream sends ahead: 4 MiB in transit keep 25 Gbit/s busy over 1 ms.
constexpr std::uint64_t kGroupBytes = std::uint64_t{1} << 20;
constexpr std::size_t kAhead = 4;
/// How long a stream whose batch was aborted may make no progress before the whole peer is given up.
constexpr std::chrono::milliseconds kAbortPatience{1000};
constexpr std::chrono::milliseconds kLookUp{50};

}  // namespace

TcpPeer::TcpPeer(TcpPeerOptions options, const Cancellation& cancellation)
    : name_(options.addresses.empty() ? "" : AddressText(options.addresses.front())) {
  const auto deadline = Clock::now() + options.timeout;
  const auto stop = [&] { return cancellation.cancelled(); };
  auto addresses = options.addresses;
  for (unsigned i = 0; i < std::max(options.streams, 1u); ++i) {
    auto stream = std::make_unique<Stream>();
    std::size_t chosen = 0;
    stream->fd = ConnectTcp(addresses, deadline, stop, chosen);
    // The other streams use the address that the first one reached.
    if (i == 0) addresses = {addresses[chosen]};
    ConfigureStream(stream->fd.get());
    const auto keys = GreetServer(stream->fd.get(), options.endpoint, options.secret, {options.protection, options.ciphers},
                                  AddressText(addresses[0]), deadline, stop);
    protection_ = keys.protection;
    cipher_ = keys.cipher;
    stream->channel = std::make_unique<TcpChannel>(stream->fd.get(), keys);
    streams_.push_back(std::move(stream));
  }
  try {
    for (auto& stream : streams_) stream->thread = StartThread("ckpt-tcp-read", [this, &stream = *stream] { Run(stream); });
  } catch (...) {
    Close();
    throw;
  }
}

TcpPeer::~TcpPeer() { Close(); }

void TcpPeer::Close() {
  Lose(Error(code::kAborted, "the connection to endpoint " + name_ + " was closed").WithPeer(name_));
  const std::lock_guard<std::mutex> lock(closing_);
  for (auto& stream : streams_) {
    if (stream->thread.joinable()) stream->thread.join();
  }
}

std::uint64_t TcpPeer::Read(const std::vector<TcpRead>& reads, std::chrono::milliseconds patience,
                            const Cancellation& cancellation, const std::function<void(std::uint64_t)>& progress) {
  cancellation.Check();
  auto groups = GroupReads(reads, kGroupBytes);
  const auto batch = std::make_shared<TcpBatch>(groups.size(), patience);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (loss_) throw *loss_;
    for (auto& group : groups) queue_.push_back({0, std::move(group), batch});
  }
  wake_.notify_all();
  std::uint64_t told = 0;
  while (!batch->Await(kLookUp)) {
    if (cancellation.cancelled() && !batch->ended()) {
      batch->Fail(Error(code::kAborted, "the read was cancelled").WithPeer(name_));
    }
    if (batch->ended()) Drop(batch);
    if (const auto bytes = batch->bytes(); progress && bytes != told) progress(told = bytes);
  }
  if (batch->failure()) throw *batch->failure();
  return batch->bytes();
}

/// Removes a batch's requests from the queue.
void TcpPeer::Drop(const std::shared_ptr<TcpBatch>& batch) {
  std::size_t dropped = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto end = std::remove_if(queue_.begin(), queue_.end(), [&](const Request& one) { return one.batch == batch; });
    dropped = static_cast<std::size_t>(queue_.end() - end);
    queue_.erase(end, queue_.end());
  }
  if (dropped > 0) batch->Done(dropped);
}

void TcpPeer::Lose(Error error) {
  std::deque<Request> queue;
  Error failure = error;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!loss_) loss_ = std::move(error);
    failure = *loss_;
    queue.swap(queue_);
    lost_.store(true);
    for (auto& stream : streams_) shutdown(stream->fd.get(), SHUT_RDWR);
  }
  wake_.notify_all();
  for (auto& request : queue) {
    request.batch->Fail(failure);
    request.batch->Done();
  }
}

void TcpPeer::Run(Stream& stream) {
  std::vector<Request> taken;
  try {
    while (TakeWork(stream, taken)) {
      bool well = true;
      for (auto& request : taken) {
        well = well && Ask(stream, request);
        // Also if it could not be sent: this is handled below.
        stream.asked.push_back(std::move(request));
      }
      taken.clear();
      if (!well || !Receive(stream)) break;
    }
  } catch (const std::exception& error) {
    Lose(Error(code::kNativeFailure, error.what()));
  }
  Lose(Error(code::kPeerLost, "the connection to endpoint " + name_ + " ended").WithPeer(name_));
  for (auto& request : taken) stream.asked.push_back(std::move(request));
  for (auto& request : stream.asked) {
    // Null if an exception occurred between two moves.
    if (request.batch == nullptr) continue;
    request.batch->Fail(*loss_);
    request.batch->Done();
  }
}

/// Waits until the stream has something to request or to receive. @returns false if the peer is lost.
bool TcpPeer::TakeWork(Stream& stream, std::vector<Request>& taken) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!loss_) {
    while (!queue_.empty() && stream.asked.size() + taken.size() < kAhead) {
      taken.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    if (!taken.empty() || !stream.asked.empty()) {
      if (stream.asked.empty()) stream.heard = Clock::now();
      return true;
    }
    wake_.wait(lock);
  }
  return false;
}

bool TcpPeer::Ask(Stream& stream, Request& request) {
  request.id = stream.next_id++;
  const auto& reads = request.group.reads;
  RequestHeader header{Operation::kRead, static_cast<std::uint32_t>(reads.size()), request.id, request.group.bytes};
  std::array<WireExtent, kMaxExtents> extents;
  for (std::size_t i = 0; i < reads.size(); ++i) extents[i] = {reads[i].key, reads[i].offset, reads[i].bytes};
  const auto go_on = [&] { return MayWait(stream); };
  int number = 0;
  auto io = stream.channel->Send(&header, sizeof header, go_on, number, Last::kNo);
  if (io == Io::kDone) io = stream.channel->Send(extents.data(), reads.size() * sizeof(WireExtent), go_on, number);
  if (io != Io::kDone) Break(io, number);
  return io == Io::kDone;
}

/// Receives the reply to the oldest request. @returns false if the connection cannot continue.
bool TcpPeer::Receive(Stream& stream) {
  const auto go_on = [&] { return MayWait(stream); };
  int number = 0;
  const auto heard = [&](std::size_t) { stream.heard = Clock::now(); };
  const auto well = [&](Io io) {
    if (io != Io::kDone) Break(io, number);
    return io == Io::kDone;
  };
  auto& channel = *stream.channel;
  const Request& request = stream.asked.front();
  ReplyHeader header{};
  if (!well(channel.Receive(&header, sizeof header, go_on, number, heard))) return false;
  if (header.id != request.id || (header.status == ReplyStatus::kOk && header.extent != 0) ||
      (header.status != ReplyStatus::kOk && header.extent >= request.group.reads.size())) {
    Lose(Error(code::kPeerProtocol, "endpoint " + name_ + " sent a reply to no request").WithPeer(name_));
    return false;
  }
  ReplyTrailer trailer{header.status, header.extent};
  if (header.status == ReplyStatus::kOk) {
    std::vector<iovec> parts;
    for (const auto& read : request.group.reads) parts.push_back({read.target, read.bytes});
    const auto moved = [&](std::size_t bytes) {
      stream.heard = Clock::now();
      request.batch->Received(bytes);
    };
    if (!well(channel.ReceiveData(parts, go_on, number, moved))) return false;
    if (!well(channel.Receive(&trailer, sizeof trailer, go_on, number, heard))) return false;
  }
  Settle(stream, request, trailer.status, trailer.extent);
  stream.asked.pop_front();
  return true;
}

void TcpPeer::Settle(Stream&, const Request& request, ReplyStatus status, std::uint32_t extent) {
  if (status != ReplyStatus::kOk) {
    const auto& read = request.group.reads[std::min<std::size_t>(extent, request.group.reads.size() - 1)];
    const bool closed = status == ReplyStatus::kClosedRegion;
    const std::string what = closed ? "it has been closed"
                             : status == ReplyStatus::kOutsideRegion
                                 ? std::to_string(read.bytes) + " bytes at " + std::to_string(read.offset) + " leave it"
                                 : "its key is not known";
    request.batch->Fail(
        Error(code::kRegionRefused, "endpoint " + name_ + " refuses region " + std::to_string(read.region) + ": " + what)
            .WithPeer(name_)
            .WithField(closed ? "closed" : "region")
            .WithIndex(read.region));
  }
  request.batch->Done();
}

/// Called after a slice without progress. @returns false if the peer was given up.
bool TcpPeer::MayWait(const Stream& stream) {
  if (lost_.load()) return false;
  if (stream.asked.empty()) return true;
  const auto& batch = *stream.asked.front().batch;
  const auto still = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - stream.heard);
  const auto patience = batch.ended() ? std::min(batch.patience(), kAbortPatience) : batch.patience();
  if (still < patience) return true;
  Lose(Error(code::kPeerLost, "endpoint " + name_ + " sent nothing for " + std::to_string(still.count()) + " ms")
           .WithPeer(name_));
  return false;
}

void TcpPeer::Break(Io io, int number) {
  if (io == Io::kForged) {
    return Lose(Error(code::kPeerUnauthorized, "data from endpoint " + name_ +
                                                   " is not what it sent: it was changed on the way, or in "
                                                   "the endpoint's memory while it was sent")
                    .WithPeer(name_));
  }
  const std::string why = io == Io::kFailed ? Error::Describe(number) : "the connection was closed";
  Lose(Error(code::kPeerLost, "endpoint " + name_ + " is lost: " + why).WithPeer(name_));
}

}  // namespace ckpt::host
