#include "communicator.h"

#include <sched.h>

#include <string>
#include <thread>

#include "ckpt/error.h"

namespace ckpt::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSpin = std::chrono::microseconds(100);
constexpr auto kPause = std::chrono::microseconds(20);
constexpr std::size_t kWarmUpBytes = std::size_t{4} << 20;

std::atomic<int> aborts_under_way{0};

}  // namespace

nccl_abi::UniqueId Communicator::NewId() {
  const Nccl& nccl = Nccl::Get();
  nccl_abi::UniqueId id{};
  nccl.Check(nccl.api().getUniqueId(&id), "ncclGetUniqueId");
  return id;
}

std::shared_ptr<Communicator> Communicator::Create(ContextPtr context, const nccl_abi::UniqueId& id, std::uint32_t size,
                                                   std::uint32_t position, std::chrono::milliseconds timeout,
                                                   const Cancellation& cancellation) {
  const Nccl& nccl = Nccl::Get();
  const nccl_abi::Api& api = nccl.api();
  const auto deadline = Clock::now() + timeout;
  const auto give_up = [&] { return cancellation.cancelled() || Clock::now() >= deadline; };
  std::shared_ptr<Communicator> self(new Communicator(std::move(context)));
  self->context_->MakeCurrent();
  nccl_abi::Config config;
  config.blocking = 0;
  const nccl_abi::Result result =
      api.commInitRankConfig(&self->comm_, static_cast<int>(size), id, static_cast<int>(position), &config);
  if (self->comm_ == nullptr) nccl.Check(result == nccl_abi::kSuccess ? -1 : result, "ncclCommInitRankConfig");
  bool joined = self->Settle(result, "ncclCommInitRankConfig", give_up);
  if (joined) {
    try {
      self->WarmUp(size, give_up);
    } catch (const Error& error) {
      if (error.code() != code::kTimeout) throw;
      joined = false;
    }
  }
  if (!joined) {
    cancellation.Check();
    throw Error(code::kTimeout, "a communicator of " + std::to_string(size) + " members did not form within " +
                                    std::to_string(timeout.count()) + " ms (this is member " + std::to_string(position) + ")");
  }
  return self;
}

Communicator::~Communicator() { Abort(); }

bool Communicator::Settle(nccl_abi::Result result, const char* what, const std::function<bool()>& give_up) const {
  const Nccl& nccl = Nccl::Get();
  const nccl_abi::Api& api = nccl.api();
  nccl.Check(result, what, comm_);
  const auto start = Clock::now();
  while (true) {
    nccl_abi::Result state = nccl_abi::kSuccess;
    nccl.Check(api.commGetAsyncError(comm_, &state), "ncclCommGetAsyncError", comm_);
    nccl.Check(state, what, comm_);
    if (state != nccl_abi::kInProgress) return true;
    if (give_up()) return false;
    if (Clock::now() - start < kSpin) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
}

void Communicator::WarmUp(std::uint32_t size, const std::function<bool()>& give_up) {
  if (size < 2) return;
  const Stream stream(context_, false);
  // The stream's work uses it until it has finished: on a failure Abort() ends that work first.
  auto scratch = std::make_shared<DeviceMemory>(context_, kWarmUpBytes);
  bool over = Broadcast({{scratch->pointer(), kWarmUpBytes, 0}}, stream, give_up);
  while (over && !stream.Idle()) {
    over = !give_up();
    std::this_thread::sleep_for(kPause);
  }
  if (over) return;
  Abort();
  for (int i = 0; i < 500 && !stream.Idle(); i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  throw Error(code::kTimeout, "the first broadcast did not end");
}

bool Communicator::Broadcast(const std::vector<InPlaceBroadcast>& broadcasts, const Stream& stream,
                             const std::function<bool()>& give_up) {
  const Nccl& nccl = Nccl::Get();
  const nccl_abi::Api& api = nccl.api();
  nccl.Check(api.groupStart(), "ncclGroupStart");
  nccl_abi::Result failed = nccl_abi::kSuccess;
  for (const InPlaceBroadcast& broadcast : broadcasts) {
    void* address = reinterpret_cast<void*>(broadcast.address);
    const nccl_abi::Result result = api.broadcast(address, address, broadcast.bytes, nccl_abi::kUint8,
                                                  static_cast<int>(broadcast.root), comm_, stream.get());
    if (result != nccl_abi::kSuccess && result != nccl_abi::kInProgress) failed = result;
  }
  const nccl_abi::Result result = api.groupEnd();
  nccl.Check(failed, "ncclBroadcast", comm_);
  return Settle(result, "ncclGroupEnd", give_up);
}

void Communicator::CheckAsync() const {
  const Nccl& nccl = Nccl::Get();
  nccl_abi::Result state = nccl_abi::kSuccess;
  nccl.Check(nccl.api().commGetAsyncError(comm_, &state), "ncclCommGetAsyncError", comm_);
  nccl.Check(state, "the communicator", comm_);
}

bool Communicator::Close(std::chrono::milliseconds timeout) {
  if (comm_ == nullptr) return true;
  const nccl_abi::Api& api = Nccl::Get().api();
  context_->MakeCurrent();
  const auto deadline = Clock::now() + timeout;
  if (!over_.load()) {
    bool settled = false;
    try {
      settled = Settle(api.commFinalize(comm_), "ncclCommFinalize", [&] { return Clock::now() >= deadline; });
    } catch (const Error&) {
      // It is aborted then.
    }
    if (!settled) {
      Abort();
      return false;
    }
    if (!over_.exchange(true)) {
      api.commDestroy(comm_);
      return true;
    }
  }
  std::unique_lock<std::mutex> lock(abort_->mutex);
  if (!abort_->started) return true;
  return abort_->ended.wait_until(lock, deadline, [this] { return abort_->over; });
}

void Communicator::Abort() {
  if (comm_ == nullptr || over_.exchange(true)) return;
  {
    const std::lock_guard<std::mutex> lock(abort_->mutex);
    abort_->started = true;
  }
  aborts_under_way.fetch_add(1);
  // NCCL may take long to release memory, and waits for its own threads.
  std::thread([context = context_, comm = comm_, state = abort_] {
    try {
      context->MakeCurrent();
    } catch (const Error&) {
      // The context has failed; the communicator's host side can still be released.
    }
    Nccl::Get().api().commAbort(comm);
    aborts_under_way.fetch_sub(1);
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->over = true;
    state->ended.notify_all();
  }).detach();
}

int Communicator::AbortsUnderWay() { return aborts_under_way.load(); }

}  // namespace ckpt::cuda
