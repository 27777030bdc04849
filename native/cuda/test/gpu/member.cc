#include "member.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "ckpt/error.h"

namespace check {

using namespace ckpt;
using namespace ckpt::cuda;

Job Plan::JobOf(std::uint32_t position, std::uint32_t size, std::vector<Job::Source> sources, int timeout_ms) const {
  Job job;
  job.position = position;
  job.size = size;
  job.ring_bytes = ring_bytes;
  job.chunk_bytes = chunk_bytes;
  job.serial = serial;
  job.order = order;
  job.timeout_ms = timeout_ms;
  job.buckets = buckets;
  job.sources = std::move(sources);
  job.first_copy.push_back(0);
  for (std::size_t b = 0; b < buckets.size(); b++) {
    if (buckets[b].owner == position) job.copies.insert(job.copies.end(), copies[b].begin(), copies[b].end());
    job.first_copy.push_back(static_cast<std::uint32_t>(job.copies.size()));
  }
  return job;
}

Member::Member(std::uint32_t position_, std::uint32_t size_, int device, Board& board_)
    : position(position_), size(size_), board(board_), context(std::make_shared<const PrimaryContext>(device)) {
  h2d = std::make_shared<Stream>(context, false);
  broadcast = std::make_shared<Stream>(context, true);
  reload = std::make_shared<Stream>(context, false);
}

void Member::Join(int id_slot, int timeout_ms) {
  if (position == 0) {
    board.ids[id_slot] = Communicator::NewId();
    board.ids_ready[id_slot].store(1);
  }
  const auto start = Clock::now();
  while (board.ids_ready[id_slot].load() == 0) {
    Require(Seconds(Clock::now() - start) < 60, "a unique id from member 0");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const auto got = Clock::now();
  const ckpt::Cancellation never;
  communicator =
      Communicator::Create(context, board.ids[id_slot], size, position, std::chrono::milliseconds(timeout_ms), never);
  std::printf("[%u] communicator of %u formed in %.0f ms\n", position, size, Seconds(Clock::now() - got) * 1e3);
}

std::shared_ptr<Pipeline> Member::current() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return current_;
}

Outcome Member::Run(const Job& job, const std::shared_ptr<DeviceMemory>& ring, const Worker& worker) {
  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::uint32_t> delivered;
    bool finished = false;
    bool drained = false;
    Outcome outcome;
    Clock::time_point finished_at;
  };
  auto state = std::make_shared<State>();
  PipelineEvents events;
  events.on_bucket = [state](std::uint32_t bucket) {
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->delivered.push_back(bucket);
    state->wake.notify_all();
  };
  events.on_finished = [state](std::optional<ckpt::Error> failure, PipelineStats stats) {
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->outcome.failure = std::move(failure);
    state->outcome.stats = std::move(stats);
    state->finished = true;
    state->finished_at = Clock::now();
    state->wake.notify_all();
  };
  events.on_drained = [state] {
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->drained = true;
    state->wake.notify_all();
  };
  const auto start = Clock::now();
  auto pipeline =
      Pipeline::Start({context, ring, h2d, broadcast, job.size > 1 ? communicator : nullptr}, Schedule(job), std::move(events));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    current_ = pipeline;
  }
  std::uint32_t expected = 0;
  std::unique_lock<std::mutex> lock(state->mutex);
  while (true) {
    state->wake.wait(lock, [&] { return state->finished || !state->delivered.empty(); });
    if (state->delivered.empty()) break;
    const std::uint32_t bucket = state->delivered.front();
    state->delivered.pop_front();
    Require(bucket == expected++, "buckets are delivered in order");
    if (state->finished) continue;
    lock.unlock();
    worker(bucket, *pipeline);
    lock.lock();
  }
  Require(state->wake.wait_for(lock, std::chrono::seconds(10), [&] { return state->drained; }), "the pipeline drains");
  Outcome outcome = state->outcome;
  outcome.seconds = Seconds(state->finished_at - start);
  const std::lock_guard<std::mutex> guard(mutex_);
  current_ = nullptr;
  return outcome;
}

int RunMember(int argc, char** argv) {
  Require(argc >= 7, "arguments of a member");
  const std::string what = argv[2];
  const auto position = static_cast<std::uint32_t>(std::atoi(argv[3]));
  const auto size = static_cast<std::uint32_t>(std::atoi(argv[4]));
  const int device = std::atoi(argv[5]);
  void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, std::atoi(argv[6]), 0);
  Require(memory != MAP_FAILED, "the board");
  int status = 1;
  try {
    Member member(position, size, device, *static_cast<Board*>(memory));
    if (what == "random") {
      status = RunRandom(member);
    } else if (what == "rates") {
      status = RunRates(member);
    } else if (what == "orders") {
      status = RunOrders(member);
    } else if (what == "pins") {
      status = RunPins(member);
    } else if (what == "aborts") {
      status = RunAborts(member);
    } else {
      status = RunFault(member, what);
    }
    if (member.communicator != nullptr) member.communicator->Close(std::chrono::seconds(5));
  } catch (const ckpt::Error& error) {
    std::fprintf(stderr, "FAILED: [%u] %s: %s\n", position, error.code().c_str(), error.what());
  }
  std::fflush(stdout);
  return status;
}

}  // namespace check
