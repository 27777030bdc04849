#include "loop.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace ckpt::ucx {
namespace {

/// Time to poll for completions before sleeping: a piece takes about as long on a fast device.
constexpr std::int64_t kSpinNs = 20'000;
constexpr int kDeadlineCheckMs = 20;
constexpr int kIdleMs = 1000;
/// Pieces that a batch may post before others, commands and deadlines have their turn.
constexpr int kPostedTogether = 16;
/// Time for the requests of a closed link to end; after that the worker is given up, which ends everything.
constexpr std::int64_t kFlushNs = 5'000'000'000;

Error Failure(const std::string& what, ucs_status_t status) {
  return Error(code::kNativeFailure, what + ": " + StatusText(status) + LastLog()).WithNumber(status);
}

Error Lost(const std::string& what) { return Error(code::kPeerLost, what); }

}  // namespace

Loop::Loop(const std::string& transports) : api_(Ucx::Api()), wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!wake_) throw Error::System(code::kNativeFailure, "eventfd", errno);
  try {
    Open(transports);
  } catch (...) {
    Release();
    throw;
  }
}

Loop::~Loop() { Release(); }

void Loop::Open(const std::string& transports) {
  ucp_config_t* config = nullptr;
  ucs_status_t status = api_.ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) throw Failure("ucp_config_read", status);
  if (!transports.empty()) status = api_.ucp_config_modify(config, "TLS", transports.c_str());
  // A killed peer is noticed by this where its transport does not report it itself.
  if (std::getenv("UCX_KEEPALIVE_INTERVAL") == nullptr) api_.ucp_config_modify(config, "KEEPALIVE_INTERVAL", "1s");
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP;
  if (status == UCS_OK) status = api_.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &context_);
  api_.ucp_config_release(config);
  if (status != UCS_OK) {
    context_ = nullptr;
    throw Failure(transports.empty() ? "ucp_init" : "ucp_init with UCX_TLS=" + transports, status);
  }
  resources_ = Printed([this](std::FILE* stream) { api_.ucp_context_print_info(context_, stream); });
  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  status = api_.ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) {
    worker_ = nullptr;
    throw Failure("ucp_worker_create", status);
  }
  status = api_.ucp_worker_get_efd(worker_, &event_fd_);
  if (status != UCS_OK) throw Failure("ucp_worker_get_efd", status);
  ucp_address_t* address = nullptr;
  std::size_t bytes = 0;
  status = api_.ucp_worker_get_address(worker_, &address, &bytes);
  if (status != UCS_OK) throw Failure("ucp_worker_get_address", status);
  address_.assign(reinterpret_cast<const char*>(address), bytes);
  api_.ucp_worker_release_address(worker_, address);
}

void Loop::Release() {
  for (ucp_mem_h handle : mapped_) api_.ucp_mem_unmap(context_, handle);
  mapped_.clear();
  if (worker_ != nullptr) api_.ucp_worker_destroy(std::exchange(worker_, nullptr));
  if (context_ != nullptr) api_.ucp_cleanup(std::exchange(context_, nullptr));
}

bool Loop::Post(std::function<void(Loop&)> command) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return false;
    commands_.push_back(std::move(command));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof one);
  return true;
}

void Loop::RequestStop() {
  Post([](Loop& loop) { loop.stopping_ = true; });
}

void Loop::Run() {
  std::int64_t quiet_since = Now();
  std::int64_t checked = quiet_since;
  while (!stopping_ && !broken_) {
    const bool commanded = TakeCommands();
    const bool progressed = api_.ucp_worker_progress(worker_) > 0;
    const bool more = Advance();
    const std::int64_t now = Now();
    if (commanded || progressed || more) quiet_since = now;
    if (now - checked > kDeadlineCheckMs * 1'000'000) {
      checked = now;
      CheckDeadlines();
    }
    if (now - quiet_since > (active_.empty() ? 0 : kSpinNs)) {
      Wait();
      quiet_since = Now();
    }
  }
  Abandon();
}

bool Loop::TakeCommands() {
  std::deque<std::function<void(Loop&)>> taken;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    taken.swap(commands_);
  }
  for (auto& command : taken) command(*this);
  return !taken.empty();
}

/// Sleeps until there is an event, a command or a deadline.
void Loop::Wait() {
  // Busy: there are events to handle first.
  if (api_.ucp_worker_arm(worker_) != UCS_OK) return;
  std::array<pollfd, 2> fds{{{event_fd_, POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
  poll(fds.data(), fds.size(), active_.empty() ? kIdleMs : kDeadlineCheckMs);
  std::uint64_t count;
  while (read(wake_.get(), &count, sizeof count) > 0) {
  }
}

std::shared_ptr<Region> Loop::Map(void* address, std::size_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = address;
  params.length = bytes;
  ucp_mem_h handle = nullptr;
  ucs_status_t status = api_.ucp_mem_map(context_, &params, &handle);
  if (status != UCS_OK) throw Failure("ucp_mem_map of " + std::to_string(bytes) + " bytes", status);
  void* packed = nullptr;
  std::size_t size = 0;
  status = api_.ucp_rkey_pack(context_, handle, &packed, &size);
  if (status != UCS_OK) {
    api_.ucp_mem_unmap(context_, handle);
    throw Failure("ucp_rkey_pack", status);
  }
  std::string key(static_cast<const char*>(packed), size);
  api_.ucp_rkey_buffer_release(packed);
  mapped_.insert(handle);
  return std::make_shared<Region>(shared_from_this(), handle, address, bytes, std::move(key));
}

void Loop::Unmap(ucp_mem_h handle) {
  if (mapped_.erase(handle) > 0) api_.ucp_mem_unmap(context_, handle);
}

std::shared_ptr<Link> Loop::Connect(const std::string& address) {
  auto link = std::make_shared<Link>();
  link->loop = this;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &Loop::OnFailure;
  params.err_handler.arg = link.get();
  const ucs_status_t status = api_.ucp_ep_create(worker_, &params, &link->ep);
  if (status != UCS_OK) {
    throw Error(code::kUnsupported, "UCX has no transport to the peer: " + StatusText(status) + LastLog()).WithNumber(status);
  }
  links_.insert(link);
  return link;
}

void Loop::OnFailure(void* data, ucp_ep_h, ucs_status_t status) {
  // Called by UCX's progress; the link is closed after that.
  int fine = UCS_OK;
  static_cast<Link*>(data)->status.compare_exchange_strong(fine, status);
}

void Loop::Disconnect(Link& link, ucs_status_t status) {
  int fine = UCS_OK;
  link.status.compare_exchange_strong(fine, status);
  if (link.ep == nullptr) return;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = api_.ucp_ep_close_nbx(std::exchange(link.ep, nullptr), &params);
  if (UCS_PTR_IS_PTR(request)) api_.ucp_request_free(request);
}

std::string Loop::Describe(const Link& link) const {
  if (link.ep == nullptr) return "";
  return Printed([&](std::FILE* stream) { api_.ucp_ep_print_info(link.ep, stream); });
}

void Loop::Start(std::shared_ptr<Transfer> transfer) {
  active_.push_back(transfer);
  const Link& link = *transfer->batch.link;
  if (link.ep == nullptr || link.status != UCS_OK) return transfer->Fail(Lost("the connection has failed before"));
  std::vector<bool> used(transfer->batch.remotes.size());
  for (const RemoteCopy& copy : transfer->batch.copies) used[copy.remote] = used[copy.remote] || copy.bytes > 0;
  for (std::size_t i = 0; i < used.size(); i++) {
    if (!used[i]) continue;
    const ucs_status_t status = api_.ucp_ep_rkey_unpack(link.ep, transfer->batch.remotes[i].key.data(), &transfer->keys[i]);
    if (status == UCS_OK) continue;
    transfer->keys[i] = nullptr;
    return transfer->Fail(Failure("no transport to the peer can use its region", status).WithIndex(static_cast<int>(i)));
  }
}

void Loop::Cancel(Transfer& transfer) { transfer.Fail(Error(code::kAborted, "the batch was cancelled")); }

bool Loop::Fill(const std::shared_ptr<Transfer>& transfer) {
  for (int i = 0; i < kPostedTogether; i++) {
    if (transfer->error != nullptr || transfer->in_flight >= transfer->batch.depth) return false;
    RemoteCopy piece;
    if (!transfer->pieces.Take(piece)) return false;
    PostPiece(transfer, piece);
  }
  return true;
}

void Loop::PostPiece(const std::shared_ptr<Transfer>& transfer, const RemoteCopy& piece) {
  const Batch& batch = transfer->batch;
  const Region& local = *batch.locals[piece.local];
  auto request = std::make_unique<Request>(Request{this, transfer, piece.bytes});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMH;
  params.cb.send = &Loop::OnCompletion;
  params.user_data = request.get();
  params.memh = local.handle();
  void* const address = static_cast<char*>(local.address()) + piece.local_offset;
  const std::uint64_t remote = batch.remotes[piece.remote].address + piece.remote_offset;
  const ucp_rkey_h key = transfer->keys[piece.remote];
  Track(request.release(), batch.direction == Direction::kRead
                               ? api_.ucp_get_nbx(batch.link->ep, address, piece.bytes, remote, key, &params)
                               : api_.ucp_put_nbx(batch.link->ep, address, piece.bytes, remote, key, &params));
}

/// Asks for the end of all writes, at the peer.
void Loop::Flush(const std::shared_ptr<Transfer>& transfer) {
  transfer->flushing = true;
  auto request = std::make_unique<Request>(Request{this, transfer, 0});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &Loop::OnCompletion;
  params.user_data = request.get();
  Track(request.release(), api_.ucp_ep_flush_nbx(transfer->batch.link->ep, &params));
}

/// Takes over a request that has been posted, or has ended already.
void Loop::Track(Request* request, ucs_status_ptr_t pointer) {
  request->transfer->in_flight++;
  if (UCS_PTR_IS_PTR(pointer)) return;
  const std::unique_ptr<Request> ended(request);
  Completed(*ended, UCS_PTR_STATUS(pointer));
}

void Loop::OnCompletion(void* request, ucs_status_t status, void* data) {
  const std::unique_ptr<Request> ended(static_cast<Request*>(data));
  ended->loop->Completed(*ended, status);
  ended->loop->api_.ucp_request_free(request);
}

void Loop::Completed(const Request& request, ucs_status_t status) {
  Transfer& transfer = *request.transfer;
  transfer.in_flight--;
  if (status != UCS_OK) {
    transfer.Fail(Lost("a request failed: " + StatusText(status) + LastLog()).WithNumber(status));
    return;
  }
  transfer.last_progress = Now();
  transfer.moved += request.bytes;
  if (request.bytes == 0) {
    transfer.flushed = true;
  } else if (transfer.progress) {
    transfer.progress(transfer.moved);
  }
}

bool Loop::Advance() {
  for (auto it = links_.begin(); it != links_.end();) {
    Link& link = **it;
    if (link.status != UCS_OK) Disconnect(link, UCS_ERR_CANCELED);
    it = link.ep == nullptr ? links_.erase(it) : std::next(it);
  }
  bool more = false;
  for (auto it = active_.begin(); it != active_.end();) {
    const std::shared_ptr<Transfer> transfer = *it;
    const auto status = static_cast<ucs_status_t>(transfer->batch.link->status.load());
    if (status == UCS_ERR_CANCELED) transfer->Fail(Error(code::kAborted, "the connection was closed"));
    if (status != UCS_OK) transfer->Fail(Lost("the connection failed: " + StatusText(status) + LastLog()).WithNumber(status));
    more = Fill(transfer) || more;
    const bool moved_all = transfer->moved == transfer->pieces.bytes() && transfer->error == nullptr;
    if (moved_all && !transfer->complete() && !transfer->flushing) Flush(transfer);
    if (transfer->in_flight == 0 && (transfer->complete() || transfer->error != nullptr)) {
      it = active_.erase(it);
      Finish(*transfer);
    } else {
      it++;
    }
  }
  return more;
}

void Loop::Finish(Transfer& transfer) {
  for (ucp_rkey_h key : transfer.keys) {
    if (key != nullptr) api_.ucp_rkey_destroy(key);
  }
  transfer.keys.clear();
  transfer.End();
}

void Loop::CheckDeadlines() {
  const std::int64_t now = Now();
  for (const auto& transfer : active_) {
    if (transfer->late_since != 0) {
      broken_ = broken_ || now - transfer->late_since > kFlushNs;
      continue;
    }
    if (now - transfer->last_progress < transfer->batch.timeout_ns) continue;
    transfer->late_since = now;
    transfer->Fail(Lost("nothing moved for " + std::to_string(transfer->batch.timeout_ns / 1'000'000) + " ms; " +
                        std::to_string(transfer->moved) + " of " + std::to_string(transfer->pieces.bytes()) + " bytes were"));
    // Requests in flight can only be recovered by giving up the link.
    Disconnect(*transfer->batch.link, UCS_ERR_TIMED_OUT);
  }
}

/// Ends the thread: no request may be in flight after that.
void Loop::Abandon() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  TakeCommands();
  for (const auto& link : links_) Disconnect(*link, UCS_ERR_CANCELED);
  const std::int64_t until = Now() + kFlushNs;
  const auto busy = [this] {
    for (const auto& transfer : active_) {
      if (transfer->in_flight > 0) return true;
    }
    return false;
  };
  while (!broken_ && busy() && Now() < until) api_.ucp_worker_progress(worker_);
  // Whatever is in flight now ends with the worker.
  for (const auto& transfer : active_) {
    for (ucp_rkey_h key : transfer->keys) {
      if (key != nullptr) api_.ucp_rkey_destroy(key);
    }
  }
  Release();
  for (const auto& transfer : std::exchange(active_, {})) {
    transfer->Fail(Closed());
    transfer->End();
  }
  links_.clear();
}

}  // namespace ckpt::ucx
