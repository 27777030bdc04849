#pragma once

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ckpt/cancellation.h"
#include "ckpt/error.h"
#include "ckpt/thread_limits.h"
#include "ckpt/usable_cpus.h"

namespace ckpt {

/// Returns the default number of threads: one for each CPU that this process can keep busy, at most 8.
inline unsigned DefaultThreads() {
  static const unsigned threads = std::min(UsableCpus(), 8u);
  return threads;
}

/// A pool of threads that are started on demand and joined by Stop() or the destructor. They block signals from elsewhere. They
/// do not block SIGBUS: the thread itself causes it when memory disappears, and a blocked one would end the process.
class WorkerPool {
 public:
  explicit WorkerPool(std::string name, std::size_t limit = 64) : name_(std::move(name)), limit_(limit) {}
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  ~WorkerPool() { Stop(); }

  /// Queues a task, which must not throw. Returns false, without keeping the task, after Stop().
  /// @throws Error OUT_OF_MEMORY with the limits, if not even one thread can be started.
  bool Post(std::function<void()> task) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return false;
    queue_.push_back(std::move(task));
    if (idle_ < queue_.size() && threads_.size() < limit_) {
      try {
        StartThread();
      } catch (const std::system_error& error) {
        if (threads_.empty()) {
          queue_.pop_back();
          const std::string limits = ThreadLimitsText();
          throw Error::System(code::kOutOfMemory, "cannot start a thread" + (limits.empty() ? "" : " (" + limits + ")"),
                              error.code().value());
        }
      }
    }
    wake_.notify_one();
    return true;
  }

  /// Drops queued tasks, waits for running ones and joins all threads. Must not be called from a task.
  void Stop() {
    std::vector<std::thread> threads;
    std::deque<std::function<void()>> dropped;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      threads.swap(threads_);
      dropped.swap(queue_);
    }
    wake_.notify_all();
    for (auto& thread : threads) thread.join();
  }

 private:
  void StartThread() {
    sigset_t all, previous;
    sigfillset(&all);
    // A blocked signal that the thread itself causes ends the process, regardless of handlers.
    for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    try {
      threads_.emplace_back([this] { Loop(); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &previous, nullptr);
      throw;
    }
    pthread_setname_np(threads_.back().native_handle(), name_.substr(0, 15).c_str());
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  }

  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      idle_++;
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      idle_--;
      if (queue_.empty()) return;
      std::function<void()> task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
      if (stopping_) return;
    }
  }

  const std::string name_;
  const std::size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

/// Calls `body(index)` for every index below `count` on up to `threads` threads, including the caller's, and returns when all
/// are done. The first exception stops the rest and is rethrown here; so does a cancellation, as Error ABORTED. May be called
/// from a task of the pool: a caller without helpers does all the work itself.
class ParallelFor {
 public:
  using Body = std::function<void(std::size_t)>;

  static void Run(WorkerPool& pool, unsigned threads, std::size_t count, const Cancellation& cancellation, Body body) {
    auto state = std::make_shared<ParallelFor>(count, cancellation, std::move(body));
    const std::size_t helpers = std::min<std::size_t>(std::max(threads, 1u), count);
    for (std::size_t i = 1; i < helpers; i++) {
      if (!pool.Post([state] { state->Help(); })) break;
    }
    state->Work();
    state->Finish();
    cancellation.Check();
  }

  ParallelFor(std::size_t count, const Cancellation& cancellation, Body body)
      : count_(count), cancellation_(cancellation), body_(std::move(body)) {}

 private:
  void Help() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // The caller may have finished already, and the targets of body_ and cancellation_ may have been destroyed.
      if (finished_) return;
      helping_++;
    }
    Work();
    std::lock_guard<std::mutex> lock(mutex_);
    if (--helping_ == 0) done_.notify_all();
  }

  void Work() {
    try {
      while (!failed_.load(std::memory_order_relaxed) && !cancellation_.cancelled()) {
        const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= count_) return;
        body_(index);
      }
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }

  void Finish() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_ = true;
    done_.wait(lock, [this] { return helping_ == 0; });
    // Helpers that are still releasing this object must not be the last to hold what the caller reads.
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  const std::size_t count_;
  const Cancellation& cancellation_;
  const Body body_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable done_;
  std::size_t helping_ = 0;
  bool finished_ = false;
  std::exception_ptr error_;
};

}  // namespace ckpt
