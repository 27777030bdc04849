#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "ckpt/fd.h"
#include "transfer.h"
#include "ucx.h"

namespace ckpt::ucx {

/// A connection to a peer's worker, over all transports that UCX chooses for it.
struct Link {
  const Loop* loop = nullptr;
  /// Used only by the loop's thread; null once it has been closed.
  ucp_ep_h ep = nullptr;
  /// UCS_OK while it can be used.
  std::atomic<int> status{UCS_OK};
};

/// A UCX context and worker, and what their thread does: it accepts batches, posts their requests and handles what they become.
/// UCX objects are used only on that thread, except where a member says otherwise.
///
/// Lifetime: regions and the thread hold the loop. Run() ends with everything of UCX released.
class Loop : public std::enable_shared_from_this<Loop> {
 public:
  /// @param transports - Instead of `UCX_TLS` of the environment, or of UCX's own choice; empty for these.
  /// @throws Error ADDON_UNAVAILABLE, NATIVE_FAILURE with what UCX says.
  explicit Loop(const std::string& transports);
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  /// Address of the worker for its peers.
  const std::string& address() const { return address_; }
  /// Devices and transports of this process, as UCX describes them.
  const std::string& resources() const { return resources_; }

  // Any thread.

  /// Runs a command on the thread. Returns false, without keeping it, once the thread has ended.
  bool Post(std::function<void(Loop&)> command);
  /// Runs `function(Loop&)` on the thread and returns its result, or throws its error. @throws Error ABORTED if it is closed.
  template <class Function>
  auto Call(Function function) -> decltype(function(*this)) {
    using Result = decltype(function(*this));
    auto task = std::make_shared<std::packaged_task<Result(Loop&)>>(std::move(function));
    std::future<Result> result = task->get_future();
    if (!Post([task](Loop& loop) { (*task)(loop); })) throw Closed();
    return result.get();
  }
  void RequestStop();

  /// The thread's function.
  void Run();

  // For commands: the thread's only.

  std::shared_ptr<Region> Map(void* address, std::size_t bytes);
  void Unmap(ucp_mem_h handle);
  std::shared_ptr<Link> Connect(const std::string& address);
  /// Closes a link at once: what is in flight ends with an error.
  void Disconnect(Link& link, ucs_status_t status);
  /// Transports of a link, as UCX describes them.
  std::string Describe(const Link& link) const;
  void Start(std::shared_ptr<Transfer> transfer);
  /// Ends a batch that may have ended before.
  static void Cancel(Transfer& transfer);

  static Error Closed() { return Error(code::kAborted, "the UCX worker is closed"); }

 private:
  struct Request {
    Loop* loop;
    std::shared_ptr<Transfer> transfer;
    std::uint64_t bytes;
  };

  void Open(const std::string& transports);
  bool TakeCommands();
  /// Posts what there is room for. Returns true if there is more that could be posted at once.
  bool Fill(const std::shared_ptr<Transfer>& transfer);
  void PostPiece(const std::shared_ptr<Transfer>& transfer, const RemoteCopy& piece);
  void Flush(const std::shared_ptr<Transfer>& transfer);
  void Track(Request* request, ucs_status_ptr_t pointer);
  void Completed(const Request& request, ucs_status_t status);
  /// Fills all batches and ends those that are over. Returns true if there is more to do at once.
  bool Advance();
  void CheckDeadlines();
  void Finish(Transfer& transfer);
  void Wait();
  void Abandon();
  void Release();
  static void OnFailure(void* link, ucp_ep_h ep, ucs_status_t status);
  static void OnCompletion(void* request, ucs_status_t status, void* data);

  const UcxApi& api_;
  const ScopedFd wake_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::string address_;
  std::string resources_;

  std::mutex mutex_;
  std::deque<std::function<void(Loop&)>> commands_;
  bool stopping_ = false;
  bool ended_ = false;

  // Used only by the thread.
  std::list<std::shared_ptr<Transfer>> active_;
  std::set<std::shared_ptr<Link>> links_;
  std::set<ucp_mem_h> mapped_;
  bool broken_ = false;
};

}  // namespace ckpt::ucx
