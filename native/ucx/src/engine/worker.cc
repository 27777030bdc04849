#include "worker.h"

#include <pthread.h>
#include <signal.h>

#include <cstdlib>
#include <set>

namespace ckpt::ucx {
namespace {

/// All workers. A process that exits without closing them ends their threads before UCX's own exit handlers run.
class Running {
 public:
  static Running& Get() {
    static auto* instance = new Running();
    return *instance;
  }
  void Add(Worker* worker) {
    const std::lock_guard<std::mutex> lock(mutex_);
    workers_.insert(worker);
  }
  void Remove(Worker* worker) {
    const std::lock_guard<std::mutex> lock(mutex_);
    workers_.erase(worker);
  }

 private:
  Running() { std::atexit(StopAll); }
  static void StopAll() {
    Running& self = Get();
    const std::lock_guard<std::mutex> lock(self.mutex_);
    for (Worker* worker : self.workers_) worker->Stop();
  }
  std::mutex mutex_;
  std::set<Worker*> workers_;
};

}  // namespace

Worker::Worker(const std::string& transports) : loop_(std::make_shared<Loop>(transports)) {
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([loop = loop_] { loop->Run(); });
  pthread_setname_np(thread_.native_handle(), "ckpt-ucx");
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  Running::Get().Add(this);
}

Worker::~Worker() {
  Running::Get().Remove(this);
  Stop();
}

void Worker::Stop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  loop_->RequestStop();
  if (thread_.joinable()) thread_.join();
}

Connection::Connection(std::shared_ptr<Loop> loop, const std::string& address, std::int64_t timeout_ns)
    : loop_(std::move(loop)) {
  link_ = loop_->Call([&address](Loop& on) { return on.Connect(address); });
  // A flush ends when the peer has answered.
  Batch batch;
  batch.direction = Direction::kWrite;
  batch.link = link_;
  batch.timeout_ns = timeout_ns;
  std::promise<std::exception_ptr> ended;
  const auto greeting = std::make_shared<Transfer>(
      std::move(batch), nullptr, [&ended](std::exception_ptr error, std::uint64_t) { ended.set_value(error); });
  if (!loop_->Post([greeting](Loop& on) { on.Start(greeting); })) throw Loop::Closed();
  if (const std::exception_ptr error = ended.get_future().get(); error != nullptr) {
    Close();
    std::rethrow_exception(error);
  }
  description_ = loop_->Call([this](Loop& on) { return on.Describe(*link_); });
}

void Connection::Close() {
  loop_->Post([link = link_](Loop& on) { on.Disconnect(*link, UCS_ERR_CANCELED); });
}

std::shared_ptr<Region> Register(const std::shared_ptr<Loop>& loop, void* address, std::size_t bytes) {
  return loop->Call([address, bytes](Loop& on) { return on.Map(address, bytes); });
}

}  // namespace ckpt::ucx
