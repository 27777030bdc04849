#include "completion_loop.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>

#include "ckpt/affinity.h"
#include "ckpt/error.h"
#include "device_info.h"
#include "transfer.h"

namespace ckpt::rdma {
namespace {

constexpr int kPolled = 64;
constexpr int kPostedTogether = 16;
/// Time to poll for completions before requesting an interrupt: a piece takes about as long on a fast device.
constexpr std::int64_t kSpinNs = 20'000;
constexpr int kDeadlineCheckMs = 50;
/// Time for a device to flush a failed queue pair; after that it is destroyed, which ends all its requests.
constexpr std::int64_t kFlushNs = 2'000'000'000;

}  // namespace

/// State of the thread.
struct CompletionLoop::State : std::enable_shared_from_this<CompletionLoop::State> {
  explicit State(std::shared_ptr<Context> device) : context(std::move(device)), wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!wake) throw Error::System(ckpt::code::kNativeFailure, "eventfd", errno);
  }

  const std::shared_ptr<Context> context;
  const ScopedFd wake;
  std::mutex mutex;
  std::deque<std::function<void(State&)>> commands;
  bool stopping = false;
  /// True once the thread accepts no more commands.
  bool ended = false;

  // Used only by the thread.
  std::map<std::uint32_t, std::shared_ptr<QueuePair>> busy;
  std::uint64_t next_id = 1;

  /// Returns false, without keeping the command, once the thread has ended.
  bool Post(std::function<void(State&)> command) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (ended) return false;
      commands.push_back(std::move(command));
    }
    Wake();
    return true;
  }
  void Wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake.get(), &one, sizeof one);
  }

  void Run();
  bool TakeCommands();
  int PollCompletions();
  void Handle(const ibv_wc& completion);
  void Enlist(const std::shared_ptr<QueuePair>& pair, const std::shared_ptr<Transfer>& transfer, std::size_t lane);
  void Fill(QueuePair& pair);
  void PostRequests(QueuePair& pair, std::array<QueuePair::Posted, kPostedTogether>& taken, int count);
  void Fail(QueuePair& pair, const WorkError& error);
  void Retire(QueuePair& pair, const WorkError& error);
  void Sweep();
  void Wait();
  void Abandon();
};

CompletionLoop::CompletionLoop(std::shared_ptr<Context> context) : state_(std::make_shared<State>(std::move(context))) {
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([state = state_] { state->Run(); });
  pthread_setname_np(thread_.native_handle(), ("rdma-" + state_->context->name()).substr(0, 15).c_str());
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

CompletionLoop::~CompletionLoop() {
  if (thread_.joinable() && thread_.get_id() == std::this_thread::get_id()) {
    // The thread itself released the last queue pair. It holds everything it still needs.
    {
      const std::lock_guard<std::mutex> lock(state_->mutex);
      state_->stopping = true;
    }
    thread_.detach();
    return;
  }
  Stop();
}

void CompletionLoop::Stop() {
  const std::lock_guard<std::mutex> once(mutex_);
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
  }
  state_->Wake();
  thread_.join();
}

void CompletionLoop::Enlist(std::shared_ptr<QueuePair> pair, std::shared_ptr<Transfer> transfer, std::size_t lane) {
  if (!state_->Post([pair, transfer, lane](State& state) { state.Enlist(pair, transfer, lane); })) {
    transfer->LaneFailed(lane, WorkError(IBV_WC_WR_FLUSH_ERR, 0, pair->Describe() + ": its device is closed", std::nullopt));
  }
}

void CompletionLoop::Retire(std::shared_ptr<QueuePair> pair) {
  state_->Post([pair = std::move(pair)](State& state) {
    state.Retire(*pair, WorkError(IBV_WC_WR_FLUSH_ERR, 0, pair->Describe() + " was closed", std::nullopt));
  });
}

void CompletionLoop::State::Run() {
  BindThread(NearCpus(context->name()));
  std::int64_t quiet_since = Now();
  std::int64_t checked = quiet_since;
  while (true) {
    const bool commanded = TakeCommands();
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (stopping && commands.empty()) break;
    }
    const int polled = PollCompletions();
    if (polled > 0 || commanded) {
      for (const auto& [number, pair] : busy) Fill(*pair);
      quiet_since = Now();
    }
    const std::int64_t now = Now();
    if (now - checked > kDeadlineCheckMs * 1'000'000) {
      checked = now;
      for (const auto& [number, pair] : busy) Fill(*pair);
      Sweep();
    }
    if (polled == 0 && !commanded && now - quiet_since > (busy.empty() ? 0 : kSpinNs)) {
      Wait();
      quiet_since = Now();
    }
  }
  Abandon();
}

bool CompletionLoop::State::TakeCommands() {
  std::deque<std::function<void(State&)>> taken;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    taken.swap(commands);
  }
  for (auto& command : taken) command(*this);
  return !taken.empty();
}

int CompletionLoop::State::PollCompletions() {
  std::array<ibv_wc, kPolled> completions;
  const int count = ibv_poll_cq(context->cq(), kPolled, completions.data());
  for (int i = 0; i < count; i++) Handle(completions[static_cast<std::size_t>(i)]);
  return std::max(count, 0);
}

void CompletionLoop::State::Handle(const ibv_wc& completion) {
  const auto found = busy.find(completion.qp_num);
  // A completion of a destroyed queue pair.
  if (found == busy.end()) return;
  QueuePair& pair = *found->second;
  if (pair.posted_.empty() || completion.wr_id < pair.posted_.front().id) return;
  // A send queue completes in order, and every request asks for its completion.
  QueuePair::Posted posted = std::move(pair.posted_.front());
  pair.posted_.pop_front();
  if (completion.status == IBV_WC_SUCCESS) {
    posted.transfer->Completed(posted.piece);
    return;
  }
  const WorkError error(completion.status, completion.vendor_err, pair.Describe(), posted.piece.remote);
  // Its batch is told before the rest of the piece could end it for a different reason.
  posted.transfer->LaneFailed(posted.lane, error);
  posted.transfer->Returned(posted.piece);
  Fail(pair, error);
}

void CompletionLoop::State::Enlist(const std::shared_ptr<QueuePair>& pair, const std::shared_ptr<Transfer>& transfer,
                                   std::size_t lane) {
  if (pair->failed_) {
    transfer->LaneFailed(lane, WorkError(IBV_WC_WR_FLUSH_ERR, 0, pair->Describe() + " has failed before", std::nullopt));
    return;
  }
  pair->users_.push_back({transfer, lane});
  busy[pair->local_.queue_pair] = pair;
}

/// Posts as much as there is room for; the batches take turns.
void CompletionLoop::State::Fill(QueuePair& pair) {
  if (pair.failed_) return;
  const auto depth = static_cast<std::size_t>(pair.options_.depth);
  std::array<QueuePair::Posted, kPostedTogether> taken;
  std::size_t refused = 0;
  int count = 0;
  while (refused < pair.users_.size() && pair.posted_.size() + static_cast<std::size_t>(count) < depth) {
    QueuePair::User user = std::move(pair.users_.front());
    pair.users_.pop_front();
    if (user.transfer->ended()) continue;
    RemoteCopy piece;
    if (user.transfer->Take(piece)) {
      refused = 0;
      taken[static_cast<std::size_t>(count++)] = {next_id++, user.transfer, user.lane, piece};
    } else {
      refused++;
    }
    pair.users_.push_back(std::move(user));
    if (count == kPostedTogether) {
      PostRequests(pair, taken, count);
      count = 0;
      if (pair.failed_) return;
    }
  }
  if (count > 0) PostRequests(pair, taken, count);
}

void CompletionLoop::State::PostRequests(QueuePair& pair, std::array<QueuePair::Posted, kPostedTogether>& taken, int count) {
  std::array<ibv_send_wr, kPostedTogether> requests;
  std::array<ibv_sge, kPostedTogether> elements;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); i++) {
    taken[i].transfer->Describe(taken[i].lane, taken[i].piece, requests[i], elements[i]);
    requests[i].wr_id = taken[i].id;
    requests[i].next = i + 1 < static_cast<std::size_t>(count) ? &requests[i + 1] : nullptr;
  }
  ibv_send_wr* bad = nullptr;
  const int result = ibv_post_send(pair.qp_, requests.data(), &bad);
  const std::size_t posted = result == 0 ? static_cast<std::size_t>(count) : static_cast<std::size_t>(bad - requests.data());
  for (std::size_t i = 0; i < posted; i++) pair.posted_.push_back(std::move(taken[i]));
  if (result == 0) return;
  const WorkError error(IBV_WC_LOC_QP_OP_ERR, static_cast<std::uint32_t>(result),
                        pair.Describe() + ": ibv_post_send: " + Error::Describe(result), std::nullopt);
  for (std::size_t i = posted; i < static_cast<std::size_t>(count); i++) {
    taken[i].transfer->LaneFailed(taken[i].lane, error);
    taken[i].transfer->Returned(taken[i].piece);
  }
  Retire(pair, error);
}

/// Posts nothing more to the queue pair. Its requests in flight come back flushed.
void CompletionLoop::State::Fail(QueuePair& pair, const WorkError& error) {
  if (!pair.failed_) {
    pair.failed_ = true;
    pair.failed_at_ = Now();
  }
  // The first request has the cause; the others fail because the queue pair has failed.
  const WorkError consequence(IBV_WC_WR_FLUSH_ERR, 0, error.what(), std::nullopt);
  for (const auto& user : pair.users_) {
    const bool has_own = MayGoElsewhere(static_cast<ibv_wc_status>(error.error_number()));
    user.transfer->LaneFailed(user.lane, has_own ? error : consequence);
  }
  pair.users_.clear();
}

void CompletionLoop::State::Retire(QueuePair& pair, const WorkError& error) {
  if (!pair.failed_ && pair.qp_ != nullptr) {
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_ERR;
    Verbs::Api().modify_qp(pair.qp_, &attributes, IBV_QP_STATE);
  }
  Fail(pair, error);
}

/// Handles deadlines, ended batches, and queue pairs without work.
void CompletionLoop::State::Sweep() {
  const std::int64_t now = Now();
  for (auto it = busy.begin(); it != busy.end();) {
    QueuePair& pair = *it->second;
    bool late = false;
    for (const auto& user : pair.users_) late = user.transfer->CheckDeadline(now) || late;
    for (const auto& posted : pair.posted_) late = posted.transfer->CheckDeadline(now) || late;
    // Requests of a late batch can only be recovered by giving up the queue pair.
    if (late &&
        std::any_of(pair.posted_.begin(), pair.posted_.end(), [](const auto& posted) { return posted.transfer->failing(); })) {
      Retire(pair, WorkError(IBV_WC_RESP_TIMEOUT_ERR, 0, pair.Describe() + " did not move in time", std::nullopt));
    }
    if (pair.failed_ && !pair.posted_.empty() && now - pair.failed_at_ > kFlushNs) {
      Verbs::Api().destroy_qp(std::exchange(pair.qp_, nullptr));
      while (!pair.posted_.empty()) {
        const QueuePair::Posted posted = std::move(pair.posted_.front());
        pair.posted_.pop_front();
        posted.transfer->LaneFailed(posted.lane, WorkError(IBV_WC_WR_FLUSH_ERR, 0, pair.Describe(), std::nullopt));
        posted.transfer->Returned(posted.piece);
      }
    }
    auto& users = pair.users_;
    users.erase(std::remove_if(users.begin(), users.end(), [](const auto& user) { return user.transfer->ended(); }),
                users.end());
    it = pair.posted_.empty() && users.empty() ? busy.erase(it) : std::next(it);
  }
}

/// Sleeps until there is a completion, a command or a deadline.
void CompletionLoop::State::Wait() {
  if (ibv_req_notify_cq(context->cq(), 0) == 0 && PollCompletions() > 0) {
    // A completion that arrived before the request for a notice; there may be no other.
    for (const auto& [number, pair] : busy) Fill(*pair);
    return;
  }
  std::array<pollfd, 2> fds{{{context->channel()->fd, POLLIN, 0}, {wake.get(), POLLIN, 0}}};
  poll(fds.data(), fds.size(), busy.empty() ? -1 : kDeadlineCheckMs);
  std::uint64_t count;
  while (read(wake.get(), &count, sizeof count) > 0) {
  }
  ibv_cq* cq = nullptr;
  void* user = nullptr;
  while (Verbs::Api().get_cq_event(context->channel(), &cq, &user) == 0) Verbs::Api().ack_cq_events(cq, 1);
}

/// Ends the thread: no request may be in flight after that.
void CompletionLoop::State::Abandon() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ended = true;
  }
  TakeCommands();
  const auto error = std::make_exception_ptr(Error(ckpt::code::kAborted, context->name() + " is being closed"));
  for (auto& [number, pair] : busy) {
    if (pair->qp_ != nullptr) Verbs::Api().destroy_qp(std::exchange(pair->qp_, nullptr));
    pair->failed_ = true;
    for (const auto& user : pair->users_) user.transfer->Fail(error);
    for (const auto& posted : pair->posted_) {
      posted.transfer->Fail(error);
      posted.transfer->Returned(posted.piece);
    }
    pair->users_.clear();
    pair->posted_.clear();
  }
  busy.clear();
}

}  // namespace ckpt::rdma
