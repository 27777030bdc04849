#pragma once

#include <napi.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "ckpt/cancellation.h"
#include "ckpt/napi/error.h"
#include "ckpt/worker_pool.h"

namespace ckpt {

class Environment;

/// Access of work on an own thread to its operation. Safe on any thread while the operation runs.
class Task {
 public:
  Task(Environment& environment, std::uint64_t id, std::shared_ptr<Cancellation> cancellation, bool reports)
      : environment_(environment), id_(id), cancellation_(std::move(cancellation)), reports_(reports) {}
  WorkerPool& pool() const;
  const Cancellation& cancellation() const { return *cancellation_; }
  /// Calls the operation's progress function with `value`, soon. Does nothing if there is none.
  void Report(double value) const;

 private:
  Environment& environment_;
  const std::uint64_t id_;
  const std::shared_ptr<Cancellation> cancellation_;
  const bool reports_;
};

/// State of an addon per Node environment (main thread or worker_thread): a pool of own threads, the way back to the JavaScript
/// thread, and the running promises.
///
/// Lifetime: created at module initialisation, held as the environment's instance data. When the environment ends, a clean-up
/// hook cancels everything and joins the threads, and only then releases the thread-safe function; so no thread of ours
/// outlives its environment. At process.exit of the main thread Node runs no such hook; threads then end with the process, and
/// nothing they use is destroyed before. JavaScript references exist only here and die on the JavaScript thread; other threads
/// identify an operation by its number.
class Environment {
 public:
  using JsCall = std::function<void(Napi::Env)>;

  /// Creates the environment's state; once, at module initialisation.
  static Environment& Init(Napi::Env env, const std::string& pool_name) {
    auto* self = new Environment(env, pool_name);
    env.SetInstanceData<Environment>(self);
    return *self;
  }
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() { pool_.Stop(); }

  /// Threads for work of this environment.
  WorkerPool& pool() { return pool_; }

  /// Runs `call` on the JavaScript thread, soon. Any thread. It is dropped (destroyed uncalled) once the environment has ended.
  void Post(JsCall call) {
    auto* message = new JsCall(std::move(call));
    if (napi_call_threadsafe_function(dispatcher_, message, napi_tsfn_nonblocking) != napi_ok) delete message;
  }

  /// Keeps the event loop alive until the matching Release(). JavaScript thread only.
  void Acquire() {
    if (holders_++ == 0) napi_ref_threadsafe_function(env_, dispatcher_);
  }
  void Release() {
    if (--holders_ == 0) napi_unref_threadsafe_function(env_, dispatcher_);
  }

  /// Calls `hook` when the environment ends, before the pool's threads are joined: it must make running work end soon.
  /// JavaScript thread only.
  std::uint64_t AddShutdown(std::function<void()> hook) {
    shutdown_.emplace(next_id_, std::move(hook));
    return next_id_++;
  }
  void RemoveShutdown(std::uint64_t id) { shutdown_.erase(id); }

  /// Keeps a function (a class's constructor) under a name for the environment's lifetime. JavaScript thread only.
  void Keep(const std::string& name, Napi::Function function) { kept_[name] = Napi::Persistent(function); }
  Napi::Function Kept(const std::string& name) { return kept_.at(name).Value(); }

  struct Options {
    /// Cancels this operation; created here if it is null.
    std::shared_ptr<Cancellation> cancellation;
    /// Called with the values of Task::Report.
    std::optional<Napi::Function> progress;
  };

  /// Runs `work(const Task&)` on a thread of the pool, then `convert(Napi::Env, result)` on the JavaScript thread; the promise
  /// gets the value, or the error of either. Neither may hold JavaScript handles. JavaScript thread only.
  template <class Work, class Convert>
  Napi::Promise Run(Work work, Convert convert, Options options) {
    using Result = decltype(work(std::declval<const Task&>()));
    const Napi::Env env(env_);
    auto cancellation = options.cancellation ? options.cancellation : std::make_shared<Cancellation>();
    const std::uint64_t id = AddShutdown([cancellation] { cancellation->Cancel(); });
    auto& pending = pending_.emplace(id, Pending{Napi::Promise::Deferred::New(env), {}}).first->second;
    if (options.progress) pending.progress = Napi::Persistent(*options.progress);
    Acquire();
    const Napi::Promise promise = pending.deferred.Promise();
    auto shared_work = std::make_shared<Work>(std::move(work));
    const bool reports = options.progress.has_value();
    std::exception_ptr refused;
    bool posted = false;
    try {
      posted = pool_.Post([this, id, cancellation, reports, shared_work, convert]() mutable {
        auto result = std::make_shared<std::optional<Result>>();
        std::exception_ptr error;
        try {
          cancellation->Check();
          result->emplace((*shared_work)(Task(*this, id, cancellation, reports)));
        } catch (...) {
          error = std::current_exception();
        }
        // The work's resources (mainly memory) are released before the caller learns that it is done.
        shared_work.reset();
        Post([this, id, result, error, convert](Napi::Env js) {
          Settle(id, [&]() -> Napi::Value {
            if (error) throw ToJs(js, error);
            return convert(js, **result);
          });
        });
      });
      shared_work.reset();
    } catch (...) {
      refused = std::current_exception();
    }
    if (!posted) {
      Settle(id, [&]() -> Napi::Value {
        if (refused) throw ToJs(env, refused);
        throw ToJs(env, Error(code::kAborted, "the environment is shutting down"));
      });
    }
    return promise;
  }
  template <class Work, class Convert>
  Napi::Promise Run(Work work, Convert convert) {
    return Run(std::move(work), std::move(convert), Options());
  }

  /// For Task.
  void Report(std::uint64_t id, double value) {
    Post([this, id, value](Napi::Env env) {
      const auto found = pending_.find(id);
      if (found == pending_.end() || found->second.progress.IsEmpty()) return;
      const Napi::Function progress = found->second.progress.Value();
      progress.Call({Napi::Number::New(env, value)});
    });
  }

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::FunctionReference progress;
  };

  Environment(Napi::Env env, const std::string& pool_name) : env_(env), pool_(pool_name) {
    const Napi::String name = Napi::String::New(env, pool_name);
    const napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr,
                                                               &Environment::OnJsThread, &dispatcher_);
    if (status != napi_ok) throw Napi::Error::New(env, "cannot create a thread-safe function");
    napi_unref_threadsafe_function(env, dispatcher_);
    // Hooks run in reverse order of their registration: this one before the thread-safe function's own.
    napi_add_env_cleanup_hook(env, &Environment::OnEnvironmentEnd, this);
  }

  /// Settles an operation with the result or exception of `value`.
  template <class Value>
  void Settle(std::uint64_t id, Value&& value) {
    RemoveShutdown(id);
    auto node = pending_.extract(id);
    if (node.empty()) return;
    const Napi::Promise::Deferred deferred = node.mapped().deferred;
    Release();
    try {
      deferred.Resolve(value());
    } catch (const Napi::Error& error) {
      deferred.Reject(error.Value());
    }
  }

  static void OnJsThread(napi_env env, napi_value, void*, void* data) {
    std::unique_ptr<JsCall> call(static_cast<JsCall*>(data));
    if (env == nullptr) return;
    try {
      (*call)(Napi::Env(env));
    } catch (const Napi::Error& error) {
      napi_fatal_exception(env, error.Value());
    }
  }

  static void OnEnvironmentEnd(void* data) {
    auto* self = static_cast<Environment*>(data);
    for (auto& [id, hook] : self->shutdown_) hook();
    self->pool_.Stop();
    self->pending_.clear();
    self->shutdown_.clear();
    napi_release_threadsafe_function(self->dispatcher_, napi_tsfn_abort);
  }

  const napi_env env_;
  WorkerPool pool_;
  napi_threadsafe_function dispatcher_ = nullptr;
  std::size_t holders_ = 0;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, std::function<void()>> shutdown_;
  std::map<std::uint64_t, Pending> pending_;
  std::map<std::string, Napi::FunctionReference> kept_;
};

inline WorkerPool& Task::pool() const { return environment_.pool(); }
inline void Task::Report(double value) const {
  if (reports_) environment_.Report(id_, value);
}

}  // namespace ckpt
